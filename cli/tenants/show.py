"""`openkcmctl tenant show`: show one tenant with the operator's role.

The module registers its command without the others of `openkcmctl tenant`, which load several times as much.
"""

from datetime import UTC, datetime
from typing import Any

import typer

from cli.connections import Tenant, operator_database, parse_any_tenant_id
from cli.documents import (
    describe_assessment,
    describe_ca,
    describe_key_version,
    describe_offboarding,
    describe_rotation,
    describe_service,
    summarize_tenant,
)
from cli.tenants import output as tenant_view
from config.settings import load_settings
from core.errors.tenants import TenantUnknown
from core.tenants.provisioning import TITLES
from core.tenants.status import Subject, Verdict, verdict
from database.connection.transaction import TenantTransaction
from database.platform.status import read_facts
from openkcm.cli import output


def register(app: typer.Typer) -> None:
    """Register `tenant show` alone."""
    tenants = typer.Typer(no_args_is_help=True)
    tenants.command("show")(show)
    app.add_typer(tenants, name="tenant")


def show(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Show one tenant: state, keys, services, tenant CA, route, steps, isolation checks, end of the audit stream."""
    tenant_id, settings = parse_any_tenant_id(tenant), load_settings()
    with operator_database(settings) as database:
        with database.tenant_tx(tenant_id) as tx:
            shown = describe_tenant(tx)
        facts = read_facts(database, tenant_id, settings.root_key_shards, datetime.now(UTC))
    shown["status"] = None if facts is None else describe_status(verdict(facts))
    output.answer(shown, as_json=as_json, show=lambda console: tenant_view.draw(console, shown))


def describe_tenant(tx: TenantTransaction) -> dict[str, Any]:
    """Return the transaction's tenant with its resources as JSON types; raises TenantUnknown."""
    row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    versions, rotations = tx.services.keys(), tx.rotations.all(5)
    authority, route, head = tx.certificates.authority(), tx.routes.get(), tx.audit.head()
    lists = {listed.authority: listed for listed in tx.certificates.revocation_lists()}
    return summarize_tenant(row) | {
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
