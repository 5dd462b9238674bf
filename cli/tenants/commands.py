"""`openkcmctl tenant`: list tenants with the operator's role, retry a failed provisioning.

`show` shows one tenant, `status` changes its state, `policy` its requirements.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.connections import Ask, Tenant, ask_gateway, operator_database, parse_any_tenant_id
from cli.documents import describe_service, summarize_tenant
from cli.offboarding import OffboardCommands
from cli.tenants import output as tenant_view
from cli.tenants.approvals import list_approvals
from cli.tenants.policy import Policy
from cli.tenants.show import show
from cli.tenants.status import StatusCommands
from config.settings import load_settings
from core import names as ids
from core.tenants.lifecycle import State
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName

_PAGE = 500

All = Annotated[bool, typer.Option("--all", help="Include the platform's own tenants, which are canaries.")]


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    tenants = typer.Typer(no_args_is_help=True)
    tenants.command("list")(list_tenants)
    tenants.command("show")(show)
    tenants.command("retry")(retry)
    tenants.command("approvals")(list_approvals)
    status = StatusCommands(ask)
    offboarding = OffboardCommands(ask)
    for command in (status.suspend, status.resume, status.lock, status.unlock):
        tenants.command()(command)
    for command in (offboarding.offboard, offboarding.restore, Policy(ask).policy):
        tenants.command()(command)
    app.add_typer(tenants, name="tenant")


def list_tenants(*, every: All = False, as_json: output.AsJson = False) -> None:
    """List the customers' tenants in order of their ids."""
    with operator_database(load_settings()) as database:
        rows = [row for row in every_tenant(database) if every or row.tenant_id not in ids.PLATFORM_TENANTS]
        tenants = [summarize_tenant(row) | {"services": _services(database, row)} for row in rows]

    def draw(console: Console) -> None:
        table = Table("tenant", "organization", "region", "state", "root key", "ready in")
        for tenant in tenants:
            seconds = tenant["ready_seconds"]
            cells = [tenant[name] for name in ("tenant_id", "organization", "region")]
            cells += [tenant_view.state(tenant), tenant["root_key_mode"]]
            cells.append("" if seconds is None else f"{seconds:.2f} s")
            # As text, not as markup: a customer chose the organization's name.
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)

    output.answer({"tenants": tenants}, as_json=as_json, show=draw)


def retry(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Retry the failed provisioning of a tenant."""
    tenant_id, settings = parse_any_tenant_id(tenant), load_settings()
    with operator_database(settings) as database, audited(database, tenant_id, AuditName.RETRY_REQUESTED):
        ask_gateway(settings, lambda gateway: gateway.retry(tenant_id))
    output.answer(
        {"tenant_id": tenant_id, "state": State.PROVISIONING},
        as_json=as_json,
        show=lambda console: console.print(f"{tenant_id} is being provisioned again"),
    )


def every_tenant(database: Database, page: int = _PAGE) -> Iterator[TenantRow]:
    """Read all tenants, at most `page` at a time."""
    after = ""
    while rows := PlatformQueries(database).list_tenants(after, page):
        yield from rows
        after = rows[-1].tenant_id


def _services(database: Database, row: TenantRow) -> list[dict[str, Any]]:
    with database.tenant_tx(row.tenant_id) as tx:
        return [describe_service(service) for service in tx.services.all()]
