"""`openkcmctl tenant`: list and show tenants with the operator's role, retry a failed provisioning.

`status` changes the state of a tenant, `policy` its requirements.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.certificates import describe_ca
from cli.connections import Ask, Tenant, ask_gateway, operator_database, parse_any_tenant_id
from cli.isolation import describe_assessment
from cli.offboarding import OffboardCommands, describe_offboarding
from cli.rotation import describe_key_version, describe_rotation
from cli.tenants import output as tenant_view
from cli.tenants.approvals import list_approvals
from cli.tenants.policy import Policy
from cli.tenants.status import StatusCommands
from config.settings import load_settings
from core import names as ids
from core.errors.tenants import TenantUnknown
from core.tenants.lifecycle import State
from core.tenants.provisioning import TITLES
from core.tenants.status import Subject, Verdict, verdict
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from database.platform.status import read_facts
from database.services.repository import ServiceRow
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
        tenants = [_summarize_tenant(row) | {"services": _services(database, row)} for row in rows]

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


def show(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Show one tenant: state, keys, services, tenant CA, route, steps, isolation checks, end of the audit stream."""
    tenant_id, settings = parse_any_tenant_id(tenant), load_settings()
    with operator_database(settings) as database:
        with database.tenant_tx(tenant_id) as tx:
            shown = describe_tenant(tx)
        facts = read_facts(database, tenant_id, settings.root_key_shards, datetime.now(UTC))
    shown["status"] = None if facts is None else describe_status(verdict(facts))
    output.answer(shown, as_json=as_json, show=lambda console: tenant_view.draw(console, shown))


def describe_status(found: Verdict) -> dict[str, Any]:
    """Return the verdict over what is measured now, without coverage, as JSON types."""
    return {
        "overall": found.overall,
        "subjects": [
            {"subject": one.subject, "status": one.status, "words": one.words, "causes": list(one.causes)}
            for one in found.subjects
            if one.subject is not Subject.COVERAGE
        ],
    }


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


def describe_tenant(tx: TenantTransaction) -> dict[str, Any]:
    """Return the transaction's tenant with its resources as JSON types; raises TenantUnknown."""
    row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    versions, rotations = tx.services.keys(), tx.rotations.all(5)
    authority, route, head = tx.certificates.authority(), tx.routes.get(), tx.audit.head()
    lists = {listed.authority: listed for listed in tx.certificates.revocation_lists()}
    return _summarize_tenant(row) | {
        "services": [describe_service(service) for service in tx.services.all()],
        "keys": [
            {
                "name": key.name,
                "kind": key.kind,
                "version": key.version,
                "oldest": key.oldest,
                "created_at": key.created_at.isoformat(),
                "rotated_at": key.rotated_at.isoformat(),
            }
            for key in tx.keys.all()
        ],
        "service_keys": [describe_key_version(key) for key in versions],
        "rotations": [describe_rotation(row.tenant_id, rotation) for rotation in rotations],
        "authority": None
        if authority is None
        else {"serial": authority.serial, "not_after": authority.not_after.isoformat()},
        "authorities": [
            describe_ca(row, tx.certificates.issued_until(row.serial), lists.get(row.serial))
            for row in tx.certificates.authorities()
        ],
        "route": None
        if route is None
        else {
            "l2_key": route.l2_key,
            "issuer_fingerprint": route.issuer_fingerprint,
            "former_issuer_fingerprint": route.former_issuer_fingerprint,
            "region": route.region,
        },
        "steps": [
            {
                "number": step.number,
                "name": step.step,
                "title": TITLES[step.step],
                "state": step.state,
                "attempts": step.attempts,
                "started_at": step.started_at and step.started_at.isoformat(),
                "finished_at": step.finished_at and step.finished_at.isoformat(),
                "problem": step.problem,
            }
            for step in tx.steps.latest()
        ],
        "boundary_checks": [
            {"clause": check.clause, "name": check.name, "outcome": check.outcome, "seconds": check.seconds}
            for check in tx.boundaries.latest()
        ],
        "examination": describe_assessment(tx.boundaries.examination()),
        "leaving": describe_offboarding(tx.leaving.get()),
        "audit": {"events": head.seq if head else 0, "head": head.chain_hash.hex() if head else None},
    }


def describe_service(row: ServiceRow) -> dict[str, Any]:
    """Return a service as JSON types."""
    return {
        "service_id": row.service,
        "kind": row.kind,
        "state": row.state,
        "certificate_not_after": row.certificate_not_after and row.certificate_not_after.isoformat(),
        "last_seen_at": row.last_seen_at and row.last_seen_at.isoformat(),
        "connected_at": row.connected_at and row.connected_at.isoformat(),
        "disconnected_at": row.disconnected_at and row.disconnected_at.isoformat(),
    }


def _services(database: Database, row: TenantRow) -> list[dict[str, Any]]:
    with database.tenant_tx(row.tenant_id) as tx:
        return [describe_service(service) for service in tx.services.all()]


def _summarize_tenant(row: TenantRow) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "organization": row.organization,
        "region": row.region,
        "state": row.state,
        "locks": list(row.locks),
        "root_key_mode": row.root_key_mode,
        "l2_key": ids.l2_key(row.tenant_id),
        "requested_at": row.requested_at.isoformat(),
        "ready_at": row.ready_at and row.ready_at.isoformat(),
        "ready_seconds": None if row.ready_at is None else (row.ready_at - row.requested_at).total_seconds(),
        "provisioning_slo_breached_at": row.promise_broken_at and row.promise_broken_at.isoformat(),
    }
