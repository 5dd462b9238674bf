"""Names of audit events in people's words, for the page Audit and for compliance reports."""

from tenancy.audit import AuditName

FAMILIES = {
    "crypto": "Use of keys",
    "key": "Keys",
    "root_key": "Root key",
    "policy": "Policy",
    "approval": "Two people",
    "service": "Services",
    "enrolment": "Enrolment of agents",
    "protection": "Protected fields",
    "certificate": "Certificates",
    "dashboard": "Dashboard",
    "tenant": "Tenant",
    "boundary": "Boundary checks",
    "route": "Routing",
    "marketplace": "Marketplace",
    "report": "Compliance reports",
}
"""The part of an event's name before the point; what is not here is called as it is."""

_BY_NAME: dict[str, str] = {
    AuditName.CRYPTO_KEY_RELEASED: "Key handed to a service",
    AuditName.CRYPTO_KEY_CHANGED: "Key object changed",
    AuditName.CRYPTO_USED: "Keys used by a service",
    AuditName.CRYPTO_REFUSED: "Use of a key refused",
    AuditName.FIELD_PROTECTED: "Field protected",
    AuditName.FIELD_PROTECTION_CHANGED: "Protection of a field changed",
    AuditName.FIELD_UNPROTECTED: "Field no longer protected",
    AuditName.PROTECTION_CHANGE_REQUESTED: "Change of protected fields refused to a role",
    AuditName.SIGNED_IN: "Signed in",
    AuditName.SIGNED_OUT: "Signed out",
    AuditName.ACCESS_REFUSED: "Access to the dashboard refused",
    AuditName.ACTION_REFUSED: "Action refused",
    AuditName.EXPORTED: "Audit stream downloaded",
    AuditName.ANNOUNCED: "Customer told",
    AuditName.TENANT_LOCKED: "Locked",
    AuditName.TENANT_UNLOCKED: "Unlocked",
    AuditName.TENANT_SUSPENDED: "Suspended",
    AuditName.TENANT_RESUMED: "Resumed",
    AuditName.ROOT_KEY_CHECKED: "Root key tried",
    AuditName.ROOT_KEY_CHANGED: "Root key changed",
    AuditName.KEYS_ROTATED: "Keys rotated",
    AuditName.ROTATION_STUCK: "Keys not rotated in time",
    AuditName.TENANT_KEY_REFUSED: "Tenant key refused: it is not the tenant's alone",
    AuditName.TENANT_KEY_ROTATED: "Tenant key rotated",
    AuditName.TENANT_KEY_RETIRED: "Older versions of the tenant key retired",
    AuditName.TENANT_KEY_TRIMMED: "Older versions of the tenant key deleted",
    AuditName.SERVICE_KEY_ROTATED: "Service key rotated",
    AuditName.SERVICE_KEY_COMPROMISED: "Service key declared compromised",
    AuditName.SERVICE_KEY_DESTROYED: "Version of a service key destroyed",
    AuditName.ROOT_KEY_UNAVAILABLE: "Root key does not do its part",
    AuditName.ROOT_KEY_AVAILABLE: "Root key works again",
    AuditName.ROOT_KEY_VERSION_NOTICED: "New version of the root key noticed",
    AuditName.ROOT_KEY_VERSION_FOLLOWED: "Everything wrapped under the root key's new version",
    AuditName.ROOT_KEY_PREFLIGHT_REQUESTED: "Check of a root key asked for",
    AuditName.ROOT_KEY_CHANGE_REQUESTED: "Change of the root key asked for",
    AuditName.POLICY_CHANGED: "Policy changed",
    AuditName.POLICY_CHANGE_REQUESTED: "Change of the policy asked for",
    AuditName.APPROVAL_REQUESTED: "Second person asked",
    AuditName.APPROVAL_GRANTED: "Approved by a second person",
    AuditName.APPROVAL_DECLINED: "Declined by a second person",
    AuditName.APPROVAL_EXPIRED: "Not approved in time",
    AuditName.APPROVAL_WITHDRAWN: "Request withdrawn",
    AuditName.APPROVAL_EXECUTED: "Approved action carried out",
    AuditName.APPROVAL_ASKED: "Request for a second person",
    AuditName.APPROVAL_VOTED: "Word on a request",
    AuditName.LEAVING_BEGUN: "Leaving",
    AuditName.RESTORED: "Restored",
    AuditName.DESTRUCTION_BEGUN: "Destruction of all keys begun",
    AuditName.KEY_DESTROYED: "Key destroyed for good",
    AuditName.ROWS_ERASED: "Records erased",
    AuditName.SHRED_CERTIFIED: "Certificate of destruction signed",
    AuditName.OFFBOARDED: "Offboarded",
    AuditName.ROTATE_REQUESTED: "Rotation of keys asked for",
    AuditName.RETIRE_REQUESTED: "Destruction of an old version asked for",
    AuditName.AUTHORITY_ROLL_REQUESTED: "New certificate authority asked for",
    AuditName.OFFBOARD_REQUESTED: "Leaving asked for",
    AuditName.RESTORE_REQUESTED: "Restoring asked for",
    AuditName.AUTHORITY_ROLL_INTENDED: "New certificate authority to be made",
    AuditName.AUTHORITY_ROLLED: "Certificate authority replaced",
    AuditName.AUTHORITY_ENDED: "Former certificate authority ended",
    AuditName.REVOCATION_LIST_PUBLISHED: "Revocation list published",
    AuditName.EXPIRY_LATE: "Not renewed in time",
    AuditName.EXPIRY_LAPSED: "Expired without being renewed",
    AuditName.PROMISE_BROKEN: "Not ready within three minutes",
    AuditName.ENABLE_ACCEPTED: "OpenKCM enabled in the marketplace",
    AuditName.DISABLE_RECORDED: "OpenKCM disabled in the marketplace",
    AuditName.BOUNDARY_CHECKED: "Boundaries attacked",
    AuditName.BOUNDARY_BREACHED: "An attack on a boundary succeeded",
    AuditName.BREACH_CLEARED: "Lock of a breach released",
    AuditName.REPORT_REQUESTED: "Compliance report asked for",
    AuditName.REPORT_MADE: "Compliance report made",
    AuditName.REPORT_DOWNLOADED: "Compliance report downloaded",
}


def family_of(name: str) -> str:
    """Return what people call the family of an event's name, or of a family (`crypto.`)."""
    part = name.partition(".")[0]
    return FAMILIES.get(part, part.replace("_", " ").capitalize())


def what(name: str) -> str:
    """Return what happened, in words, from the name of an event."""
    return _BY_NAME.get(name) or name.rpartition(".")[2].replace("_", " ").capitalize()
