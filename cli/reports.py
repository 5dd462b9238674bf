"""`openkcmctl report create`: a tenant's compliance report for a period, which the worker creates and signs, as a file.

The report shows how services use their keys, so the command needs the database role of the dashboard.
"""

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.console import Console
from rich.text import Text

from cli.connections import Ask, Tenant, ask_gateway, dashboard_database
from compliance.audit.operator_events import command_event
from compliance.reports import periods as report_period
from compliance.reports.periods import Period
from config.settings import load_settings
from core.errors.compliance import PeriodRefused, ReportTooLate, ReportUnknown
from core.errors.tenants import TenantUnknown
from database.connection.database import Database
from openkcm.cli import output
from openkcm.cli.files import new_file
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id
from openkcm.verification.reports.signed_file import ReportFormat

Out = Annotated[Path, typer.Option("--out", help="Output file; must not exist.")]
Format = Annotated[ReportFormat, typer.Option("--format", help="File format; each contains all figures.")]
Named = Annotated[str | None, typer.Option("--period", help="Year, quarter or month: 2026, 2026-Q3, 2026-09.")]
Since = Annotated[datetime | None, typer.Option("--since", formats=["%Y-%m-%d"], help="First day, UTC.")]
Until = Annotated[datetime | None, typer.Option("--until", formats=["%Y-%m-%d"], help="Last day, UTC; default: today.")]

_ACTOR = "operator"


def register(app: typer.Typer) -> None:
    reports = typer.Typer(no_args_is_help=True)
    reports.command("create")(make_report)
    app.add_typer(reports, name="report")


def make_report(  # noqa: PLR0913, PLR0917 - one parameter for each option
    tenant: Tenant,
    out: Out,
    form: Format = ReportFormat.PDF,
    period: Named = None,
    since: Since = None,
    until: Until = None,
    *,
    as_json: output.AsJson = False,
) -> None:
    """Create a signed report; default: the last complete month, or the time since a newer tenant was enabled."""
    ask: Ask = ask_gateway
    tenant_id, now = parse_tenant_id(tenant), datetime.now(UTC)
    asked = _period(period, since, until, now)
    checked = None if asked is None else report_period.checked(asked, now)
    settings, report_id = load_settings(), uuid4().hex
    with new_file(out) as file, dashboard_database(settings) as database:
        begins, ends = checked or report_period.default(_enabled_at(database, tenant_id), now)
        region = _request(database, tenant_id, report_id, (begins, ends))
        with output.waiting("the worker creates the report"):
            ask(settings, lambda gateway: gateway.make_report(tenant_id, region, report_id))
        with database.tenant_tx(tenant_id) as tx:
            content = tx.reports.file(report_id, form)
        if content is None:
            raise ReportUnknown
        file.write(content)
    document = {
        "tenant_id": tenant_id,
        "report_id": report_id,
        "format": form,
        "file": str(out),
        "since": begins.isoformat(),
        "until": ends.isoformat(),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }

    def show(console: Console) -> None:
        console.print(Text(f"{out}: {begins:%Y-%m-%d} to {ends:%Y-%m-%d %H:%M} UTC, {len(content):,} bytes, signed"))
        console.print(Text("to verify it: openkcm audit verify EXPORT --report FILE --public-key KEY"))

    output.answer(document, as_json=as_json, show=show)


def _period(named: str | None, since: datetime | None, until: datetime | None, now: datetime) -> Period | None:
    """Return the requested period; None without one."""
    if named is not None and (since or until):
        raise PeriodRefused("--period excludes --since and --until", "omit --period, or --since and --until")
    if named is not None:
        return report_period.named(named)
    if since is None and until is None:
        return None
    if since is None:
        raise PeriodRefused("the period has no first day", "specify it with --since")
    last: date = until.date() if until else now.date()
    return report_period.days(since.date(), last)


def _enabled_at(database: Database, tenant_id: str) -> datetime:
    with database.tenant_tx(tenant_id) as tx:
        tenant = tx.tenants.get()
    if tenant is None:
        raise TenantUnknown
    return tenant.requested_at


def _request(database: Database, tenant_id: str, report_id: str, period: Period) -> str:
    """Store the request with its audit record and return the tenant's region."""
    with database.tenant_tx(tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            raise TenantUnknown
        leaving = tx.leaving.get()
        if leaving is not None and leaving.destroying_at is not None:
            raise ReportTooLate
        tx.reports.request(report_id, *period, _ACTOR)
        details = {"since": period[0].isoformat(), "until": period[1].isoformat()}
        tx.audit.append(command_event(AuditName.REPORT_REQUESTED, report_id, "success", **details))
        return tenant.region
