"""The errors of the examination of a tenant's boundaries; part of the vocabulary of `errors`.

What double entry can say of a tenant's audit stream; part of the vocabulary of `errors`.

Why a tenant's audit stream does not reach the receiver it is forwarded to.

What can be wrong with isolation and with the attacks on it; part of the vocabulary of `errors`.

What can keep a report from being made, and what is said of one that does not verify.
"""

from openkcm.errors import CallerError, OpenKcmError, PlatformError


class BreachNotCleared(CallerError):
    """Somebody wants to open a tenant whose newest examination does not say that its walls stand."""

    code = "breach_not_cleared"
    message = "no examination since the breach has found every wall standing"
    hint = "follow docs/runbook.md#a-boundary-was-breached, then run openkcmctl isolation check TENANT"


class NothingToExamine(CallerError):
    """Only a tenant that was opened and has not left has boundaries to attack."""

    code = "nothing_to_examine"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"a tenant that is {state} is not examined", "the gate attacks it before it opens; who left has no keys"
        )


class AssessmentFailed(PlatformError):
    """The examination came to no result: that is no breach and no pass."""

    code = "examination_failed"
    message = "the examination came to no result"
    hint = "the workflow tenant/TENANT/boundaries says why: a server that is down, most likely; make status"


class AssessmentTampered(OpenKcmError):
    """What is on record of an examination is not what was signed."""

    code = "examination_altered"
    hint = "keep the database as it is and follow docs/runbook.md#rows-of-an-examination-were-altered"

    def __init__(self, flaw: str) -> None:
        super().__init__(f"the examination on record is not the one that was signed: {flaw}")


class AuditDiscrepancy(PlatformError):
    code = "audit_differs"

    def __init__(self, differences: int) -> None:
        super().__init__(
            f"the key server's audit log and ours differ: {differences} differences",
            "see docs/double-entry.md#what-is-always-told for what each means and what to do first",
        )


class VaultAuditLogNotConfigured(CallerError):
    code = "vault_log_unknown"
    message = "nobody has said where the key server's audit log can be read"
    hint = "name it with --vault-log, or set vault_audit_log"


class CanaryMissing(PlatformError):
    code = "canary_missing"
    message = "the canary tenant is not ready, so isolation cannot be proven yet"
    hint = "it is provisioned when the first worker starts; see workflow tenant/openkcm-canary"


class SecondCanaryMissing(PlatformError):
    code = "mirror_missing"
    message = "the mirror tenant is not ready, so nothing is attacked through the crypto service yet"
    hint = "it is provisioned after the canary; see workflow tenant/openkcm-mirror"


class IsolationBreached(OpenKcmError):
    """An attack across the tenant boundary succeeded: the tenant must never become active."""

    code = "boundary_breached"
    hint = "stop enabling tenants, keep the audit stream as evidence and follow docs/runbook.md#a-boundary-was-breached"

    def __init__(self, checks: tuple[str, ...]) -> None:
        super().__init__(f"boundary checks failed: {', '.join(checks)}")


class AuditUnavailable(PlatformError):
    code = "audit_unavailable"
    message = "the audit record cannot be made safe, so nothing is answered"
    hint = "check the space and the permissions of the crypto folder in state_dir"


class CertificateMissing(CallerError):
    code = "certificate_missing"
    message = "nothing was destroyed for this tenant, so there is no crypto-shred certificate"
    hint = "it is made at the end of leaving; openkcmctl tenant show <tenant> says how the tenant stands"


class DestinationRefused(CallerError):
    code = "destination_refused"
    message = "an audit stream is not forwarded there"
    hint = "https://HOST/PATH, syslog+tls://HOST:PORT, or syslog+tcp://127.0.0.1:PORT on this machine"


class ForwardingRefused(CallerError):
    code = "forwarding_refused"
    message = "the receiver refuses what is forwarded to it"
    hint = (
        "look at the receiver: address, token and what it takes; nothing is skipped, so run it again when it is mended"
    )


class ForwardingStateRefused(CallerError):
    code = "forwarding_state_refused"
    message = "the state file does not belong to this"
    hint = "a state file is of one tenant, one receiver and one form; name another with --state"


class ForwardingBusy(CallerError):
    code = "forwarding_busy"
    message = "another process forwards with this state file"
    hint = "one is enough; end it, or name another state file with --state"


class ReceiverUnavailable(PlatformError):
    code = "receiver_unavailable"
    message = "the receiver did not acknowledge what was forwarded"
    hint = "nothing is lost: it is sent again from the record after the last that was acknowledged"


class PositiveControlFailed(PlatformError):
    """The attacker could not do to its own things what it tries on the other's, so nothing was proven."""

    code = "boundary_control_failed"
    hint = "the check is tried again; if it stays, compare policies and root certificate with a healthy server"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the control of a boundary check failed: {problem}")


class TenantKeyShared(OpenKcmError):
    """Another key has this one's fingerprint: both have the same material (MTCI U2).

    Never tried again: it would be found again, and nothing may be encrypted under it meanwhile.
    """

    code = "tenant_key_shared"
    message = "the tenant key has the fingerprint of another key: its material is not the tenant's alone"
    hint = "stop enabling tenants and follow docs/runbook.md#a-tenant-key-is-shared-or-replaced"


class TenantKeyReplaced(OpenKcmError):
    """Under the key's name and version lies another key than the one that was put on record."""

    code = "tenant_key_replaced"
    message = "the tenant key is not the one whose fingerprint is on record"
    hint = "find who replaced the key in the key server's audit log: docs/runbook.md#a-tenant-key-is-shared-or-replaced"


class PeriodRefused(CallerError):
    code = "period_refused"
    message = "there can be no report of this period"
    hint = "name a year, a quarter or a month: 2026, 2026-Q3, 2026-09"


class ReportTooLate(CallerError):
    code = "report_too_late"
    message = "the tenant's keys and records are destroyed, so no report can be made of them"
    hint = "its stream and the certificate of destruction stay: openkcmctl audit export, openkcmctl audit erasure-certificate"


class ReportUnknown(CallerError):
    code = "report_unknown"
    message = "nobody asked for this report"
    hint = "ask for one: openkcmctl report create <tenant>"
