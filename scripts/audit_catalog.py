"""Every operation of every process, and the audit events that it writes, or the reason why it writes none.

tests/test_audit_complete.py compares this with the code's own lists: an operation that is missing here fails, and so
does one that does not write the events listed here. docs/audit.md contains it as a table (`make docs`).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from core.services import CHANGES, RELEASES, CryptoOperation
from openkcm.contract.audit_events import AuditName as N

Entry = tuple[N, ...] | str
"""The names of the events, or the reason why none is written."""

_READS_DUE_WORK = "finds due work and changes no key or state; the work itself is recorded"
_SHOWS = "shows what the platform set up itself: nothing secret, no record, no use of keys"
_PUBLIC = "public, and the same for every caller"
_PLATFORM_ONLY = "concerns the platform's own servers, no tenant"
_AT_THE_CUSTOMER = "runs at the customer; its requests to the platform are recorded as a service's"
_PART = "a step whose outcome is recorded with the end of the operation"

ACTIVITIES: Mapping[str, Entry] = MappingProxyType(
    {
        "load-tenant": (N.KEYS_ROTATED, N.ROOT_KEY_CHANGED),
        "read-tenant-state": "reads the state of the tenant and changes nothing",
        "record-locks": "copies to the key server what an event has recorded",
        "repair-stores": (N.KEY_DESTROYED, N.LEAVING_BEGUN, N.TENANT_KEY_RETIRED, N.TENANT_LOCKED),
        "end-tenant-workflows": "ends workflows, which start again from the rows",
        "recover-workflows": (N.LEAVING_BEGUN,),
        "recover-tenant": (N.LEAVING_BEGUN,),
        "plan-provisioning": (N.PROVISION_INTENDED, N.PROVISION_RETRIED),
        "load-payload-key": "creates a data key in memory; its key is recorded since its creation",
        "create-keys": (
            N.PAYLOAD_KEY_CREATED,
            N.PROVISION_ROLLED_BACK,
            N.TENANT_KEY_CREATED,
            N.TENANT_KEY_REFUSED,
        ),
        "assess-tenant": (N.BOUNDARY_BREACHED, N.BOUNDARY_CHECKED),
        "find-due-assessments": _READS_DUE_WORK,
        "apply-isolation-result": (N.TENANT_LOCKED,),
        "create-ca": (N.AUTHORITY_CREATED, N.PROVISION_ROLLED_BACK),
        "check-isolation": (N.BOUNDARY_CHECKED,),
        "activate": (N.ROUTE_PUBLISHED, N.TENANT_ACTIVATED),
        "send-notification": (N.ANNOUNCE_EXPIRED, N.ANNOUNCED),
        "record-slo-breach": (N.PROMISE_BROKEN,),
        "record-failure": (N.ROUTE_WITHDRAWN, N.TENANT_FAILED),
        "disable-tenant-key": (N.PROVISION_ROLLED_BACK,),
        "disable-ca": (N.PROVISION_ROLLED_BACK,),
        "record-service": (N.SERVICE_CONNECT_INTENDED,),
        "create-service-key": (N.SERVICE_KEY_CREATED,),
        "issue-certificate": (N.SERVICE_CERTIFICATE_ISSUED,),
        "mark-connected": (N.SERVICE_CONNECTED,),
        "record-connect-failure": (N.SERVICE_CONNECTED,),
        "plan-renewal": (N.SERVICE_CERTIFICATE_ISSUED,),
        "disconnect-service": (N.SERVICE_DISCONNECTED,),
        "change-status": (
            N.APPROVAL_EXECUTED,
            *(N.TENANT_LOCKED, N.TENANT_UNLOCKED, N.TENANT_SUSPENDED, N.TENANT_RESUMED, N.BREACH_CLEARED),
        ),
        "apply-root-key-health": (N.TENANT_LOCKED, N.TENANT_UNLOCKED),
        "register-root-key": (N.APPROVAL_EXECUTED, N.ROOT_KEY_CHANGED),
        "preflight-root-key": (N.ROOT_KEY_CHECKED,),
        "wrap-service-keys": _PART,
        "switch-root-key": (N.ROOT_KEY_CHANGED, N.TENANT_UNLOCKED),
        "abandon-root-key": (N.ROOT_KEY_CHANGED,),
        "look-for-due-rotation": _READS_DUE_WORK,
        "find-due-rotations": _READS_DUE_WORK,
        "plan-rotation": (N.APPROVAL_EXECUTED, N.KEYS_ROTATED),
        "rotate-tenant-key": (N.TENANT_KEY_REFUSED, N.TENANT_KEY_ROTATED),
        "prepare-service-keys": (N.SERVICE_KEY_CREATED,),
        "activate-service-keys": (N.SERVICE_KEY_COMPROMISED, N.SERVICE_KEY_ROTATED),
        "rewrap-keys": (N.ROOT_KEY_VERSION_FOLLOWED,),
        "retire-tenant-key": (N.TENANT_KEY_RETIRED,),
        "trim-tenant-key": (N.TENANT_KEY_TRIMMED,),
        "destroy-compromised-keys": (N.SERVICE_KEY_DESTROYED,),
        "finish-rotation": (N.KEYS_ROTATED,),
        "abandon-rotation": (N.KEYS_ROTATED,),
        "retire-service-key": (N.APPROVAL_EXECUTED, N.SERVICE_KEY_DESTROYED),
        "find-stalled-rotations": (N.ROTATION_STUCK,),
        "detect-root-key-versions": (N.ROOT_KEY_VERSION_NOTICED,),
        "monitor-root-keys": (N.ROOT_KEY_AVAILABLE, N.ROOT_KEY_UNAVAILABLE),
        "change-policy": (N.APPROVAL_EXECUTED, N.POLICY_CHANGED),
        "open-approval": (N.APPROVAL_REQUESTED,),
        "decide-approval": (N.APPROVAL_DECLINED, N.APPROVAL_EXPIRED, N.APPROVAL_GRANTED, N.APPROVAL_WITHDRAWN),
        "expire-approvals": (N.APPROVAL_DECLINED, N.APPROVAL_EXPIRED, N.APPROVAL_GRANTED, N.APPROVAL_WITHDRAWN),
        "close-approval": (N.APPROVAL_EXECUTED,),
        "start-offboarding": (N.APPROVAL_EXECUTED, N.LEAVING_BEGUN, N.LEAVING_JOINED),
        "remind-of-offboarding": "stores a message; its delivery is recorded",
        "restore-tenant": (N.RESTORED,),
        "start-destruction": (N.DESTRUCTION_BEGUN,),
        "inventory-keys": "lists what is to be destroyed; each destruction is recorded",
        "disconnect-services": (N.ROUTE_WITHDRAWN, N.SERVICE_DISCONNECTED),
        "destroy-service-keys": (N.KEY_DESTROYED,),
        "destroy-tenant-key": (N.KEY_DESTROYED,),
        "destroy-ca-key": (N.KEY_DESTROYED,),
        "destroy-payload-key": (N.KEY_DESTROYED,),
        "erase-rows": (N.ROWS_ERASED,),
        "issue-erasure-certificate": (N.OFFBOARDED, N.SHRED_CERTIFIED),
        "terminate-workflows": "ends the tenant's workflows in Temporal, whose history shows it",
        "terminate-service-workflows": "ends the workflows of services in Temporal, whose histories show it",
        "plan-ca": (N.AUTHORITY_ROLL_INTENDED,),
        "prepare-ca": (N.AUTHORITY_CREATED,),
        "verify-ca": _PART,
        "activate-ca": (N.AUTHORITY_ROLLED,),
        "abandon-ca": (N.AUTHORITY_ROLLED,),
        "find-unrenewed-services": _READS_DUE_WORK,
        "find-due-cas": _READS_DUE_WORK,
        "retire-cas": (N.AUTHORITY_ENDED, N.REVOCATION_LIST_PUBLISHED),
        "publish-revocation-list": (N.REVOCATION_LIST_PUBLISHED,),
        "publish-revocation-lists": (N.REVOCATION_LIST_PUBLISHED,),
        "check-expiry": (N.EXPIRY_LAPSED, N.EXPIRY_LATE),
        "sign-audit-checkpoint": "the checkpoint is stored beside the stream, and every export contains it",
        "sign-audit-checkpoints": "the checkpoint is stored beside the stream, and every export contains it",
        "dispatch-outbox": (N.ANNOUNCE_EXPIRED, N.ANNOUNCED),
        "deliver-to-target": (N.ANNOUNCE_EXPIRED, N.ANNOUNCED),
        "archive-audit-streams": (N.AUDIT_ARCHIVED,),
        "delete-expired-rows": "deletes rows after their retention; docs/retention.md says where each is recorded",
        "reconcile-audit": (N.AUDIT_DIFFERENCE, N.AUDIT_RECONCILED),
        "snapshot-report": (N.REPORT_MADE,),
        "render-report": "renders and signs the snapshot, whose digest is recorded",
        "purge-unused-credentials": "deletes encrypted credentials of an abandoned request; they were never used",
    }
)
"""Activity → the events that the worker writes for it."""

REQUESTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Tenant.retry": ("plan-provisioning",),
        "Tenant.request-approval": ("open-approval",),
        "Tenant.decide-approval": ("decide-approval",),
        "Tenant.rotate-ca": ("plan-ca",),
        "Tenant.ca-rotation-due": ("plan-ca",),
        "Tenant.certificates-revoked": ("publish-revocation-list",),
        "Tenant.offboard": ("start-offboarding",),
        "Tenant.restore": ("restore-tenant",),
        "Tenant.tenant-offboarded": ("issue-erasure-certificate",),
        "Tenant.change-policy": ("change-policy",),
        "Tenant.preflight-root-key": ("register-root-key", "preflight-root-key"),
        "Tenant.change-root-key": ("register-root-key", "switch-root-key"),
        "Tenant.rotate-keys": ("plan-rotation", "finish-rotation"),
        "Tenant.retire-service-key": ("retire-service-key",),
        "Tenant.rotation-due": ("plan-rotation",),
        "Tenant.change-status": ("change-status",),
        "Tenant.isolation-assessed": ("apply-isolation-result",),
        "Tenant.root-key-health-changed": ("apply-root-key-health",),
        "Tenant.marketplace-event": ("plan-provisioning", "start-offboarding"),
        "ConnectService.enrol": ("record-service", "issue-certificate"),
        "ConnectService.renew": ("plan-renewal", "issue-certificate"),
        "ConnectService.disconnect": ("disconnect-service",),
        "ConnectService.renew-certificate": ("plan-renewal",),
        "ConnectService.discovered": ("record-service",),
        "ConnectService.tenant-offboarded": ("disconnect-services",),
    }
)
"""Update or signal of a workflow → the activities that record its request or rejection."""

_MANY = (CryptoOperation.DATA_KEY, CryptoOperation.WRAPPED_DATA_KEY)
ENDPOINTS: Mapping[str, tuple[CryptoOperation, ...] | str] = MappingProxyType(
    {
        "encrypt": (CryptoOperation.ENCRYPT,),
        "encrypt-batch": (CryptoOperation.ENCRYPT,),
        "decrypt": (CryptoOperation.DECRYPT,),
        "decrypt-batch": (CryptoOperation.DECRYPT,),
        "rewrap": (CryptoOperation.REWRAP,),
        "rewrap-batch": (CryptoOperation.REWRAP,),
        "data-key": _MANY,
        "data-key-batch": _MANY,
        "open-data-key": (CryptoOperation.DATA_KEY,),
        "certificate": "returns a service's own public certificate, whose issuance is recorded",
        "heartbeat": "a service's report about itself, stored in its own rows; it uses no key",
        "protection": "returns a service's own list, each change of which is recorded",
        "discovery": "returns the supported operations; it uses no key",
        "crl": _PUBLIC,
        "former-crl": _PUBLIC,
        "health": _PUBLIC,
        "openapi": _PUBLIC,
    }
)
"""HTTPS endpoint → the entries in the write-ahead log. Rejections of requests and connections are recorded as well."""

KMIP: Mapping[str, str] = MappingProxyType(
    {
        "DISCOVER_VERSIONS": _PUBLIC,
        "QUERY": _PUBLIC,
        "HASH": "uses no key and no object",
        "LOG": "writes a message of the client to the log of the service",
    }
)
"""KMIP operation → why it is not audited; the others are named in `crypto_service.kmip.operation_table`."""

ROUTES: Mapping[str, Entry] = MappingProxyType(
    {
        "POST /v1/events": (N.DISABLE_RECORDED, N.ENABLE_ACCEPTED, N.SERVICE_DISCOVERED),
        "GET /v1/tenants/{tenant_id}": "returns the progress of the marketplace's own event",
        "POST /v1/enrolments": (N.ENROLMENT_ACCEPTED, N.ENROLMENT_PROOF_REFUSED),
        "GET /v1/enrolments/{enrolment_id}": "returns an agent's own enrolment, whose every step is recorded",
        "GET /.well-known/openkcm": _PUBLIC,
        "GET /healthz": _PUBLIC,
        "GET /readyz": _PUBLIC,
        "GET /docs": _PUBLIC,
        "GET /openapi.json": _PUBLIC,
    }
)
"""Route of the marketplace endpoint → the events that it writes; rejections without a known tenant are only logged."""

_STANDING = (N.LOCK_REQUESTED, N.UNLOCK_REQUESTED, N.SUSPEND_REQUESTED, N.RESUME_REQUESTED)
_MOVED = (*_STANDING, N.BREACH_CLEAR_REQUESTED)
_FIELDS = (N.FIELD_PROTECTED, N.FIELD_PROTECTION_CHANGED)
_OWN_TENANT = "reads the user's own tenant for the page; the sign-on is recorded"
ACTIONS: Mapping[str, Entry] = MappingProxyType(
    {
        "auth.authorization.SessionAuthorizer.admit": (N.ACCESS_REFUSED, N.SIGNED_IN),
        "auth.authorization.SessionAuthorizer.refuse_forged": (N.ACCESS_REFUSED,),
        "auth.authorization.SessionAuthorizer.holds": (N.SIGNED_IN,),
        "auth.authorization.SessionAuthorizer.has_ended": "reads the state of a session without using it",
        "auth.authorization.SessionAuthorizer.ends_at": "reads the state of a session without using it",
        "auth.authorization.SessionAuthorizer.tenant": _OWN_TENANT,
        "auth.authorization.SessionAuthorizer.end": (N.SIGNED_OUT,),
        "auth.authorization.SessionAuthorizer.leave": (N.SIGNED_OUT,),
        "reports.actions.make": (N.ACTION_REFUSED, N.REPORT_REQUESTED),
        "reports.actions.download": (N.ACTION_REFUSED, N.REPORT_DOWNLOADED),
        "audit.stream.export": (N.ACTION_REFUSED, N.EXPORTED),
        "downloads.Downloads.audit": (N.ACTION_REFUSED, N.EXPORTED),
        "downloads.Downloads.certificate": (N.ACTION_REFUSED, N.EXPORTED),
        "operations.actions.retry": (N.ACTION_REFUSED, N.RETRY_REQUESTED),
        "approvals.actions.ask_for": (N.ACTION_REFUSED, N.APPROVAL_ASKED),
        "approvals.actions.decide": (N.ACTION_REFUSED, N.APPROVAL_VOTED),
        "approvals.actions.change_policy": (N.ACTION_REFUSED, N.POLICY_CHANGE_REQUESTED),
        "approvals.actions.policy_of": _OWN_TENANT,
        "certificates.actions.roll": (N.ACTION_REFUSED, N.AUTHORITY_ROLL_REQUESTED),
        "services.actions.make_token": (N.ACTION_REFUSED, N.JOIN_TOKEN_REQUESTED, N.JOIN_TOKEN_MADE),
        "notifications.actions.add": (N.ACTION_REFUSED, N.NOTIFICATION_TARGET_ADDED),
        **dict.fromkeys(
            ("notifications.actions.change_events", "notifications.actions.pause"),
            (N.ACTION_REFUSED, N.NOTIFICATION_TARGET_CHANGED),
        ),
        "notifications.actions.rotate_secret": (N.ACTION_REFUSED, N.NOTIFICATION_SECRET_ROTATED),
        "notifications.actions.remove": (N.ACTION_REFUSED, N.NOTIFICATION_TARGET_REMOVED),
        "notifications.actions.send_test": (N.ACTION_REFUSED, N.NOTIFICATION_TEST_REQUESTED),
        "notifications.actions.retry": (N.ACTION_REFUSED, N.ANNOUNCE_RETRY_REQUESTED),
        "offboarding.actions.leave": (N.ACTION_REFUSED, N.OFFBOARD_REQUESTED),
        "offboarding.actions.ask_to_leave": (N.ACTION_REFUSED, N.APPROVAL_ASKED),
        "offboarding.actions.restore": (N.ACTION_REFUSED, N.RESTORE_REQUESTED),
        "services.actions.protect": (N.ACTION_REFUSED, N.PROTECTION_CHANGE_REQUESTED, *_FIELDS),
        "services.actions.unprotect": (N.ACTION_REFUSED, N.PROTECTION_CHANGE_REQUESTED, N.FIELD_UNPROTECTED),
        "root_keys.actions.wishes": "creates a request id and sends no request",
        "root_keys.actions.keeps_credentials": "compares input and sends no request",
        "root_keys.actions.moved": "prepares requests and sends none",
        "root_keys.actions.check": (N.ACTION_REFUSED, N.ROOT_KEY_PREFLIGHT_REQUESTED),
        "root_keys.actions.change": (N.ACTION_REFUSED, N.ROOT_KEY_CHANGE_REQUESTED),
        "root_keys.actions.ask_for_platform": (N.ACTION_REFUSED, N.APPROVAL_ASKED, N.ROOT_KEY_CHANGE_REQUESTED),
        "root_keys.actions.found": _OWN_TENANT,
        "rotation.actions.rotate": (N.ACTION_REFUSED, N.ROTATE_REQUESTED),
        "rotation.actions.retire": (N.ACTION_REFUSED, N.RETIRE_REQUESTED),
        "rotation.actions.ask_to_compromise": (N.ACTION_REFUSED, N.APPROVAL_ASKED),
        "rotation.actions.ask_to_retire": (N.ACTION_REFUSED, N.APPROVAL_ASKED),
        "services.actions.wish": "creates a request id and sends no request",
        "services.actions.connect": (N.ACTION_REFUSED, N.SERVICE_CONNECT_REQUESTED),
        "services.actions.renew": (N.ACTION_REFUSED, N.SERVICE_RENEW_REQUESTED),
        "services.actions.disconnect": (N.ACTION_REFUSED, N.SERVICE_DISCONNECT_REQUESTED),
        "services.actions.archive": "packs newly issued files for the browser that requested them",
        "tenants.actions.suspend": (N.ACTION_REFUSED, *_STANDING),
        "tenants.actions.resume": (N.ACTION_REFUSED, *_STANDING),
        "tenants.actions.lock": (N.ACTION_REFUSED, *_STANDING),
        "tenants.actions.unlock": (N.ACTION_REFUSED, *_STANDING),
        "tenants.actions.ask_to_lock": (N.ACTION_REFUSED, N.APPROVAL_ASKED),
        "usage.page._export": (N.ACTION_REFUSED, N.EXPORTED),
    }
)
"""Action of a user in the dashboard → the events before the request to a workflow, and of a rejection."""

COMMANDS: Mapping[str, Entry] = MappingProxyType(
    {
        **dict.fromkeys(("setup database", "setup vault", "setup secrets"), _PLATFORM_ONLY),
        "service coverage": (N.EXPORTED,),
        "isolation check": (N.BOUNDARY_CHECK_REQUESTED,),
        "tenant offboard": (N.OFFBOARD_REQUESTED,),
        "tenant restore": (N.RESTORE_REQUESTED,),
        "key rotate": (N.RETIRE_REQUESTED, N.ROTATE_REQUESTED),
        **dict.fromkeys(("service smoke-test",), _AT_THE_CUSTOMER),
        **dict.fromkeys(
            ("tenant list", "tenant show", "service list", "root-key show", "service list-protected-fields"), _SHOWS
        ),
        **dict.fromkeys(("notification list", "notification list-targets", "notification list-deliveries"), _SHOWS),
        "tenant approvals": _SHOWS,
        "notification retry": (N.ANNOUNCE_RETRY_REQUESTED,),
        "doctor": (N.REPAIR_REQUESTED,),
        "tenant retry": (N.RETRY_REQUESTED,),
        "certificate rotate-ca": (N.AUTHORITY_ROLL_REQUESTED,),
        "certificate crl": _PUBLIC,
        "tenant suspend": _MOVED,
        "tenant resume": _MOVED,
        "tenant lock": _MOVED,
        "tenant unlock": _MOVED,
        "tenant policy": (N.POLICY_CHANGE_REQUESTED,),
        "service connect": (N.SERVICE_CONNECT_REQUESTED,),
        "service renew": (N.SERVICE_RENEW_REQUESTED,),
        "service disconnect": (N.SERVICE_DISCONNECT_REQUESTED,),
        "service join-token": (N.JOIN_TOKEN_MADE,),
        "root-key preflight": (N.ROOT_KEY_PREFLIGHT_REQUESTED,),
        "root-key change": (N.ROOT_KEY_CHANGE_REQUESTED,),
        "audit export": (N.EXPORTED,),
        "audit erasure-certificate": (N.EXPORTED,),
        "audit forward": (N.STREAM_BEGUN, N.STREAM_BEHIND, N.STREAM_ENDED),
        "audit public-key": _PUBLIC,
        "audit reconcile": _SHOWS,
        "report create": (N.REPORT_REQUESTED,),
        "service protect-field": _FIELDS,
        "service unprotect-field": (N.FIELD_UNPROTECTED,),
    }
)
"""Command → the events that are written in the operator's name."""

TABLES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("activity", ACTIVITIES),
    ("crypto", ENDPOINTS),
    ("KMIP", KMIP),
    ("", ROUTES),
    ("dashboard", ACTIONS),
    ("openkcmctl", COMMANDS),
)
"""All tables with the name of their process."""

BY_DATABASE = frozenset({N.JOIN_TOKEN_MADE, *_FIELDS, N.FIELD_UNPROTECTED})
"""Names that a trigger writes, independent of the process that changes the row."""


def named(operation: CryptoOperation) -> N:
    """Return the event of a successful operation."""
    if operation is CryptoOperation.OPEN:
        return N.SERVICE_KEY_OPENED
    if operation in RELEASES:
        return N.CRYPTO_KEY_RELEASED
    return N.CRYPTO_KEY_CHANGED if operation in CHANGES else N.CRYPTO_USED


def writers() -> Mapping[N, tuple[str, ...]]:
    """Return the operations that write each name, in words."""
    found: dict[N, list[str]] = {name: [] for name in N}
    for operation, names in _written():
        for name in names:
            found[name].append(operation)
    return {name: tuple(dict.fromkeys(by)) for name, by in found.items()}


def _written() -> Iterator[tuple[str, tuple[N, ...]]]:
    for what, entries in TABLES:
        for operation, entry in entries.items() if entries is not ENDPOINTS else ():
            if not isinstance(entry, str):
                yield f"{what} {operation}".strip(), entry
    for operation in CryptoOperation:
        if operation is not CryptoOperation.CONNECT:
            yield f"crypto {operation}", (named(operation), N.CRYPTO_REFUSED)
    yield "crypto connect", (N.CRYPTO_REFUSED,)
