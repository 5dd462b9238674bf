"""What somebody does about compliance reports on the dashboard: has one made, and takes one away. Both on record."""

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


def make(seat: PageContext, report_id: str, period: Period) -> None:
    """Have a report made of a period; it can be downloaded when this returns. The same id again makes no other.

    Raises:
        OpenKcmError: refused, or not done yet; it is made all the same as soon as what is down is there again.
    """
    require(seat, Permission.VIEW_AUDIT, AuditName.REPORT_REQUESTED, report_id)
    since, until = period
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant, leaving = tx.tenants.get(), tx.leaving.get()
        if tenant is None:
            raise TenantUnknown
        if leaving is not None and leaving.destroying_at is not None:
            raise ReportTooLate
        tx.reports.request(report_id, since, until, _made_for(seat))
        said = {"since": since.isoformat(), "until": until.isoformat()}
        tx.audit.append(seat.event(AuditName.REPORT_REQUESTED, report_id, "intended", **said))
    ask(
        seat,
        AuditName.REPORT_REQUESTED,
        report_id,
        lambda: seat.door.make_report(seat.tenant_id, tenant.region, report_id),
    )


def download(seat: PageContext, report_id: str, form: ReportFormat) -> Download:
    """Return a file of a report and put on record who took it.

    Raises:
        AccessDenied: the role does not include it, which is on record.
        ReportUnknown: there is no such report of this tenant, or it is not made yet.
    """
    allowed = seat.may(Permission.VIEW_AUDIT)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        row = tx.reports.get(report_id) if allowed else None
        content = tx.reports.file(report_id, form) if row is not None else None
        if not allowed:
            refused = seat.event(AuditName.ACTION_REFUSED, "compliance report", "refused", action="download")
            tx.audit.append(refused)
        elif row is not None and content is not None:
            tx.audit.append(seat.event(AuditName.REPORT_DOWNLOADED, report_id, "success", form=form))
    if not allowed:
        raise AccessDenied("your role does not show compliance reports", "ask an administrator or an auditor")
    if row is None or content is None:
        raise ReportUnknown
    return Download(row, content)


def _made_for(seat: PageContext) -> str:
    person = seat.person
    name = f"{person.name} ({person.subject})" if person.name != person.subject else person.subject
    return name[:_LONGEST_NAME]
