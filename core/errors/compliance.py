"""Errors of isolation assessments, audit reconciliation, audit forwarding and compliance reports."""

from openkcm.errors import CallerError, OpenKcmError, PlatformError


class BreachNotCleared(CallerError):
    """No assessment since the breach passed every isolation check, so the lock is not released."""

    code = "isolation_lock_not_cleared"
    message = "no isolation assessment since the breach has passed every check"
    hint = "follow docs/runbook.md#isolation-breach, then run openkcmctl isolation check TENANT"


class NothingToExamine(CallerError):
    """The tenant is not active yet or is offboarded, so it has no isolation to assess."""

    code = "nothing_to_assess"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"a tenant that is {state} has no isolation assessment",
            "isolation checks also run before activation; offboarded tenants have no keys",
        )


class AssessmentFailed(PlatformError):
    """The assessment ended without a result, which is neither a breach nor a pass."""

    code = "assessment_failed"
    message = "the isolation assessment ended without a result"
    hint = "read the reason in the workflow tenant/TENANT/isolation and check that every server is running"


class AssessmentTampered(OpenKcmError):
    """The stored results of an assessment differ from the signed results."""

    code = "assessment_tampered"
    hint = "keep the database as it is and follow docs/runbook.md#altered-isolation-results"

    def __init__(self, flaw: str) -> None:
        super().__init__(f"the stored isolation assessment does not match its signature: {flaw}")


class AuditDiscrepancy(PlatformError):
    code = "audit_discrepancy"

    def __init__(self, differences: int) -> None:
        super().__init__(
            f"the key server's audit log and the audit streams differ: {differences} discrepancies",
            "see docs/reconciliation.md#discrepancies for the meaning of each discrepancy and the first steps",
        )


class VaultAuditLogNotConfigured(CallerError):
    code = "vault_audit_log_not_configured"
    message = "no audit log of the key server is configured"
    hint = "pass --vault-log, or set vault_audit_logs"


class CanaryMissing(PlatformError):
    code = "canary_missing"
    message = "the canary tenant is not ready, so isolation cannot be verified yet"
    hint = "wait for the first worker to provision it; see workflow tenant/openkcm-canary"


class SecondCanaryMissing(PlatformError):
    code = "second_canary_missing"
    message = "the second canary tenant is not ready, so isolation checks cannot use the crypto service yet"
    hint = "wait until it is provisioned after the canary tenant; see workflow tenant/openkcm-canary-2"


class IsolationBreached(OpenKcmError):
    """An attack across the tenant boundary succeeded: the tenant must never become active."""

    code = "isolation_breached"
    hint = "stop enabling tenants, keep the audit stream as evidence and follow docs/runbook.md#isolation-breach"

    def __init__(self, checks: tuple[str, ...]) -> None:
        super().__init__(f"isolation checks failed: {', '.join(checks)}")


class AuditUnavailable(PlatformError):
    code = "audit_unavailable"
    message = "the audit record cannot be written to disk, so the request is rejected"
    hint = "check the free space and the permissions of the crypto folder in state_dir"


class AuditBacklogExceeded(AuditUnavailable):
    """A tenant has no room left for records that wait for the database; other tenants have."""

    code = "audit_backlog_exceeded"
    message = "too many audit records of the tenant wait for the database, so the request is rejected"
    hint = "retry later: records are delivered in the background; if it persists, check the database of the platform"


class CertificateMissing(CallerError):
    code = "erasure_certificate_not_found"
    message = "no key of this tenant was destroyed, so it has no erasure certificate"
    hint = "the certificate is issued at the end of offboarding; openkcmctl tenant show TENANT shows the tenant's state"


class DestinationRefused(CallerError):
    code = "destination_refused"
    message = "the address cannot receive a forwarded audit stream"
    hint = "use https://HOST/PATH, syslog+tls://HOST:PORT, or syslog+tcp://127.0.0.1:PORT on this machine"


class ForwardingRefused(CallerError):
    code = "forwarding_refused"
    message = "the receiver rejects the forwarded audit records"
    hint = "check address, token and accepted format at the receiver, then run the command again; no record is skipped"


class ForwardingStateRefused(CallerError):
    code = "forwarding_state_refused"
    message = "the state file belongs to another tenant, receiver or format"
    hint = "name another state file with --state"


class AuditRecordsArchived(CallerError):
    """A forwarding stopped for so long that its next records are in archive files."""

    code = "audit_records_archived"

    def __init__(self, first: int, last: int) -> None:
        super().__init__(
            f"records {first} to {last} are not in the database any more: they were archived",
            "load them into the receiver from the archive files, then begin a new forwarding with another --state",
        )


class ExportedRecordsArchived(CallerError):
    """Records of an export were archived before it read them; the incomplete file would look tampered with."""

    code = "exported_records_archived"
    message = "the export is incomplete: records of it were archived meanwhile"
    hint = "export again; the archived records are in archive files"
    retryable = True


class AuditArchiveRefused(OpenKcmError):
    """An archive file is missing, differs from its statement or cannot be written: nothing is deleted."""

    code = "audit_archive_refused"
    hint = "follow docs/retention.md#when-an-archive-is-rejected"

    def __init__(self, problem: str) -> None:
        super().__init__(f"audit archive: {problem}")


class ReportPeriodArchived(CallerError):
    code = "report_period_archived"
    message = "the period of the report begins before the records in the database: older ones were archived"
    hint = "choose a later begin; for older periods use the report of that time or the archive files"


class ForwardingBusy(CallerError):
    code = "forwarding_busy"
    message = "another process forwards with this state file"
    hint = "stop that process, or name another state file with --state"


class ReceiverUnavailable(PlatformError):
    code = "receiver_unavailable"
    message = "the receiver did not acknowledge the forwarded records"
    hint = "no record is lost: forwarding resumes after the last acknowledged record"


class PositiveControlFailed(PlatformError):
    """The positive control of a check failed: the attacker could not access its own data, so nothing is proven."""

    code = "positive_control_failed"
    hint = "the check is retried; if it keeps failing, compare policies and root certificate with a healthy server"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the positive control of an isolation check failed: {problem}")


class TenantKeyShared(OpenKcmError):
    """Another key has the same fingerprint, so both have the same key material (MTCI U2).

    Never retried: a retry finds the same result, and the key must encrypt nothing meanwhile.
    """

    code = "tenant_key_shared"
    message = "the tenant key has the fingerprint of another key: another key has the same key material"
    hint = "stop enabling tenants and follow docs/runbook.md#a-tenant-key-is-shared-or-replaced"


class TenantKeyReplaced(OpenKcmError):
    """The key of this name and version has another fingerprint than the recorded one."""

    code = "tenant_key_replaced"
    message = "the tenant key does not match its recorded fingerprint"
    hint = "read in the key server's audit log who replaced the key: docs/runbook.md#a-tenant-key-is-shared-or-replaced"


class PeriodRefused(CallerError):
    code = "period_refused"
    message = "this period cannot have a report"
    hint = "name a year, a quarter or a month: 2026, 2026-Q3, 2026-09"


class ReportTooLate(CallerError):
    code = "report_expired"
    message = "the tenant's keys and records are destroyed, so no report can be created"
    hint = "use openkcmctl audit export and openkcmctl audit erasure-certificate instead"


class ReportUnknown(CallerError):
    code = "report_unknown"
    message = "the report does not exist"
    hint = "create one: openkcmctl report create TENANT"
