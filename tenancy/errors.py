"""The error vocabulary: one class per thing a caller would do differently.

Each class says its `code` (stable, for programs), whose `fault` it is, whether trying again can help, and a `hint`
that tells a person the next step. Texts are lower case, without a final period, and hold no secret and no name of
another tenant. Every edge (webhook, command, workflow) has one table from these to its answers; anything that is not
an `OpenKcmError` becomes "internal" there, with a reference into the log.
"""

from openkcm.errors import CallerError, OpenKcmError, PlatformError


class MalformedEvent(CallerError):
    code = "malformed_event"
    message = "the event is not one this endpoint understands"
    hint = "send the fields event, customer, service, region and timestamp as JSON, or a CloudEvent carrying them"


class SignatureRefused(CallerError):
    code = "signature_refused"
    message = "the webhook signature does not fit the body"
    hint = "sign the raw body with one of the active secrets, as Standard Webhooks describes"


class StaleTimestamp(CallerError):
    code = "stale_timestamp"
    message = "the event's timestamp is too far from the present"
    hint = "send the event within five minutes of signing it and check both clocks"


class BodyTooLarge(CallerError):
    code = "body_too_large"
    message = "the body is larger than an event may be"
    hint = "an event is a few hundred bytes; send only its fields"


class Unauthorized(CallerError):
    code = "unauthorized"
    message = "the request carries no valid credential"
    hint = "send the token of the marketplace as a bearer token"


class UnknownEvent(CallerError):
    code = "unknown_event"
    message = "this kind of event is not known"
    hint = "the kinds are service_enabled, service_disabled and service_discovered"


class UnknownService(CallerError):
    code = "unknown_service"
    message = "the event is about another service"
    hint = "events for OpenKCM carry the service openkcm"


class UnknownRegion(CallerError):
    code = "unknown_region"
    message = "OpenKCM is not offered in this region"

    def __init__(self, offered: tuple[str, ...] = ()) -> None:
        super().__init__(hint=f"choose one of: {', '.join(offered)}" if offered else "ask the operator for the regions")


class TenantUnknown(CallerError):
    code = "tenant_unknown"
    message = "there is no such tenant"
    hint = "enable OpenKCM for the account first"


class TenantOffboarded(CallerError):
    code = "tenant_offboarded"
    message = "this tenant has left and its id is never used again"
    hint = "enable OpenKCM under a new account id"


class TenantConflict(CallerError):
    code = "tenant_conflict"
    message = "the tenant exists with another region"
    hint = "a tenant stays in the region it was enabled in; offboard it before enabling it elsewhere"


class IllegalMove(CallerError):
    code = "illegal_move"

    def __init__(self, state: str, move: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"a tenant that is {state} cannot {move}",
            f"from {state} it can: {', '.join(allowed)}" if allowed else f"{state} is final",
        )


class OperationRunning(CallerError):
    code = "operation_running"

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} is still running for this tenant", "wait for it to end, then ask again")


class SettingsInvalid(CallerError):
    code = "settings_invalid"
    message = "the settings cannot be used"
    hint = "see docs/settings.md"


class VaultUnavailable(PlatformError):
    code = "vault_unavailable"
    message = "the key server does not answer"
    hint = "check that OpenBao or Vault is running and unsealed: openkcm status"


class VaultRefused(PlatformError):
    code = "vault_refused"
    message = "the key server refused the request"
    hint = "compare the policy of this process with the files in vault/policies"


class KeyUnavailable(PlatformError):
    code = "key_unavailable"
    message = "the key is missing or disabled"
    hint = "see the tenant's audit stream for who disabled it, and enable it again or restore the key server"


class WrongContext(OpenKcmError):
    """The ciphertext was not made under this key and this context (MTCI C3); never retried."""

    code = "wrong_context"
    message = "the ciphertext does not belong to this key and context"
    hint = "the data was moved or altered; restore it to where it was encrypted"


class ConflictingResource(OpenKcmError):
    """What exists under the name is not what was asked for; a person must look before anything is used."""

    code = "conflicting_resource"
    hint = "see docs/runbook.md#something-else-has-that-name"

    def __init__(self, kind: str, name: str, difference: str) -> None:
        super().__init__(f"the {kind} {name} exists but is not as required: {difference}")


class DatabaseUnavailable(PlatformError):
    code = "database_unavailable"
    message = "the database does not answer"
    hint = "check that PostgreSQL is running: openkcm status"


class DatabaseRefused(OpenKcmError):
    """Row security or a constraint refused the statement; a fault of ours or an attack, never retried."""

    code = "database_refused"
    message = "the database refused the statement"
    hint = "see the log for the constraint"


class SchemaRefused(OpenKcmError):
    """The migrator or its gate found a schema it must not run on."""

    code = "schema_refused"
    message = "the database schema is not one to run on"
    hint = "see docs/runbook.md#the-schema-breaks-a-rule"


class TemporalUnavailable(PlatformError):
    code = "temporal_unavailable"
    message = "the workflow service does not answer"
    hint = "check that Temporal is running: openkcm status"


class CanaryMissing(PlatformError):
    code = "canary_missing"
    message = "the canary tenant is not ready, so isolation cannot be proven yet"
    hint = "it is provisioned when the first worker starts; see workflow tenant/openkcm-canary"


class MirrorMissing(PlatformError):
    code = "mirror_missing"
    message = "the mirror tenant is not ready, so nothing is attacked through the crypto service yet"
    hint = "it is provisioned after the canary; see workflow tenant/openkcm-mirror"


class BoundaryBreached(OpenKcmError):
    """An attack across the tenant boundary succeeded: the tenant must never become active."""

    code = "boundary_breached"
    hint = "stop enabling tenants, keep the audit stream as evidence and follow docs/runbook.md#a-boundary-was-breached"

    def __init__(self, checks: tuple[str, ...]) -> None:
        super().__init__(f"boundary checks failed: {', '.join(checks)}")


class Overtaken(PlatformError):
    code = "overtaken"
    message = "another attempt of the same step ended meanwhile"
    hint = "nothing is wrong; the next attempt finds what that one made"


class AnnouncementUndelivered(PlatformError):
    code = "announcement_undelivered"
    message = "the receiver of the announcement does not take it"
    hint = "check callback_url and the SMTP settings; it is tried again with the same message id"


class AuditUnavailable(PlatformError):
    code = "audit_unavailable"
    message = "the audit record cannot be made safe, so nothing is answered"
    hint = "check the space and the permissions of the crypto folder in state_dir"


class CertificateMissing(CallerError):
    code = "certificate_missing"
    message = "nothing was destroyed for this tenant, so there is no crypto-shred certificate"
    hint = "it is made at the end of leaving; openkcm tenant show <tenant> says how the tenant stands"


class ComponentFailed(PlatformError):
    code = "component_failed"
    message = "a server of the embedded stack did not start"
    hint = "openkcm doctor says what is missing; each server's log lies in logs under state_dir"


class TenantClosed(CallerError):
    """The tenant's state forbids what was asked: suspended ones only decrypt, locked and leaving ones do nothing."""

    code = "tenant_closed"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"the tenant is {state}, which does not allow this",
            "ask the customer's security administrator, who can resume or unlock it",
        )


class CallerRefused(CallerError):
    """The client certificate is genuine but opens nothing: revoked, not on record, or of a disconnected service."""

    code = "caller_refused"
    message = "this certificate opens nothing here"
    hint = "connect the service again: openkcm service connect"


class ServiceUnknown(CallerError):
    code = "service_unknown"
    message = "the tenant has no such service"
    hint = "openkcm service list shows those it has"


class ServiceConflict(CallerError):
    code = "service_conflict"
    message = "the service exists as another kind"
    hint = "choose another name, or connect it as the kind it was connected as"


class AuthorityOverlaps(CallerError):
    """Two authorities of a tenant are believed while the leaves of the former last; a third never."""

    code = "authority_overlaps"
    message = "certificates of the former authority are still in use, so the current one is not rolled"
    hint = "they end within three days by themselves; openkcm tenant show says when, ask again after that"


class AuthorityLapsed(PlatformError):
    code = "authority_lapsed"
    message = "the tenant's certificate authority has expired, so it issues nothing"
    hint = "have a new one made: openkcm tenant roll-authority"


class InvalidRequest(CallerError):
    """The request is not one the crypto service understands; the message names the field and never its value."""

    code = "invalid_request"
    message = "the request is not one the crypto service understands"
    hint = "see /.well-known/openkcm for the operations and their fields"


class CiphertextRefused(CallerError):
    """Altered, cut, of another tenant, service or resource: all alike, so that nothing can be learnt (MTCI C3)."""

    code = "ciphertext_refused"
    message = "the ciphertext does not open for this caller and resource"
    hint = "send it unaltered, from the service that encrypted it, with the same resource"


class ObjectNotFound(CallerError):
    """Not there, or not the caller's; nobody outside can tell which."""

    code = "object_not_found"
    message = "there is no such object"
    hint = "check the unique identifier"


class KeyNotUsable(CallerError):
    """The key's state forbids the use."""

    code = "key_not_usable"

    def __init__(self, state: str) -> None:
        super().__init__(f"the key is {state}, which does not allow this", "activate it, or use its replacement")


class TooManyRequests(CallerError):
    code = "too_many_requests"
    retryable = True
    message = "the tenant sends more requests than it may"
    hint = "wait as long as Retry-After says; the limits are settings of the platform"


class AccessRefused(CallerError):
    """Somebody is signed on and this is not theirs; whether it exists is not said."""

    code = "access_refused"
    message = "this page is not yours"
    hint = "sign in with an account of the organization it belongs to, or open your own page"


class ActionRefused(CallerError):
    """Somebody is at their own tenant and their role does not include what they asked for."""

    code = "action_refused"
    message = "your role does not include this"
    hint = "ask an administrator of your organization to do it"


class SessionEnded(CallerError):
    """The sign-on is over, was signed out elsewhere, or was never made here."""

    code = "session_ended"
    message = "your session has ended"
    hint = "sign in again"
