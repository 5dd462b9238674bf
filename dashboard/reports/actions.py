"""Compliance reports from the dashboard: creation and download. Both are recorded."""

from dataclasses import dataclass

from compliance.reports.periods import Period
from core.errors.compliance import ReportTooLate, ReportUnknown
from core.errors.tenants import AccessDenied, TenantUnknown
from core.tenants.roles import Permission
from dashboard.page_context import PageContext, ask, require
from database.reports import ReportRow
from openkcm.contract.audit_events import AuditName
from openkcm.verification.reports.signed_file import ReportFormat

_LONGEST_NAME = 300


@dataclass(frozen=True, slots=True)
class Download:
    row: ReportRow
    content: bytes


def make(context: PageContext, report_id: str, period: Period) -> None:
    """Create a report of a period; it can be downloaded when this returns. The same id creates no second report.

    Raises:
        OpenKcmError: rejected, or pending; a pending report is created as soon as its dependencies are up.
    """
    require(context, Permission.VIEW_AUDIT, AuditName.REPORT_REQUESTED, report_id)
    since, until = period
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, leaving = tx.tenants.get(), tx.leaving.get()
        if tenant is None:
            raise TenantUnknown
        if leaving is not None and leaving.destroying_at is not None:
            raise ReportTooLate
        tx.reports.request(report_id, since, until, _made_for(context))
        period_details = {"since": since.isoformat(), "until": until.isoformat()}
        tx.audit.append(context.event(AuditName.REPORT_REQUESTED, report_id, "intended", **period_details))
    ask(
        context,
        AuditName.REPORT_REQUESTED,
        report_id,
        lambda: context.workflows.make_report(context.tenant_id, tenant.region, report_id),
    )


def download(context: PageContext, report_id: str, form: ReportFormat) -> Download:
    """Return a file of a report and record the download.

    Raises:
        AccessDenied: the role does not include it; recorded.
        ReportUnknown: the tenant has no such report, or it is not complete.
    """
    allowed = context.may(Permission.VIEW_AUDIT)
    with context.database.tenant_tx(context.tenant_id) as tx:
        row = tx.reports.get(report_id) if allowed else None
        content = tx.reports.file(report_id, form) if row is not None else None
        if not allowed:
            refused = context.event(AuditName.ACTION_REFUSED, "compliance report", "refused", action="download")
            tx.audit.append(refused)
        elif row is not None and content is not None:
            tx.audit.append(context.event(AuditName.REPORT_DOWNLOADED, report_id, "success", form=form))
    if not allowed:
        raise AccessDenied("your role does not include compliance reports", "ask an administrator or an auditor")
    if row is None or content is None:
        raise ReportUnknown
    return Download(row, content)


def _made_for(context: PageContext) -> str:
    person = context.person
    name = f"{person.name} ({person.subject})" if person.name != person.subject else person.subject
    return name[:_LONGEST_NAME]
