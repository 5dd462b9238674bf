"""`openkcmctl service protect-field`: show and change the protected fields of a service.

The command handles names of fields only, never data.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Tenant, operator_database
from config.settings import load_settings
from core.errors.services import FieldInvalid, FieldNotProtected, ServiceUnknown
from core.errors.tenants import TenantUnknown
from core.protected_fields import consequences, parse_field, store_of
from database import commands as protecting
from database.commands import Change
from database.connection.transaction import TenantTransaction
from database.services.protected_fields import ProtectedFieldRow
from openkcm.cli import output
from openkcm.contract.names import parse_service_name, parse_tenant_id
from openkcm.contract.protected_fields import OBEYED_SECONDS, Mode, ProtectedField, Store

_MADE_BY = "operator"

Service = Annotated[str, typer.Argument(help="Name of the service.")]
Place = Annotated[str, typer.Argument(help="schema.table or database.collection, as stored in the database.")]
Field = Annotated[str, typer.Argument(help="Column, or dotted path in a document.")]
StoreOption = Annotated[Store | None, typer.Option("--store", help="Database system; needed for a microservice only.")]
DryRun = Annotated[bool, typer.Option(help="Show the change and its consequences and change nothing.")]


def show(tenant: Tenant, service: Service, *, as_json: output.AsJson = False) -> None:
    """Show a service's protected fields."""
    tenant_id, name = parse_tenant_id(tenant), parse_service_name(service)
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        _refuse_unknown(tx, name)
        version, rows = tx.protection.of(name).version, tx.protection.rows(name)
    document = {
        "tenant_id": tenant_id,
        "service_id": name,
        "version": version,
        "fields": [_describe_row(row) for row in rows],
    }
    output.answer(document, as_json=as_json, show=lambda console: _draw(console, name, rows))


def protect(  # noqa: PLR0913 - one parameter an option
    tenant: Tenant,
    service: Service,
    place: Place,
    field: Field,
    *,
    store: StoreOption = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="deterministic: equal values are searchable and recognizable; default: randomised."),
    ] = None,
    plaintext_allowed: Annotated[
        bool | None, typer.Option(help="Return values that are stored unencrypted, until the backfill is done.")
    ] = None,
    dry_run: DryRun = False,
    as_json: output.AsJson = False,
) -> None:
    """Protect a field, or change its protection; omitted options keep their value."""
    tenant_id, name = parse_tenant_id(tenant), parse_service_name(service)
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        before = protecting.find(tx, name, _parse_field_name(tx, name, store, place, field))
        wanted = parse_field(
            _store(tx, name, store),
            place,
            field,
            mode or (before.mode if before else Mode.RANDOMISED),
            plaintext_allowed=(before is not None and before.plaintext_allowed)
            if plaintext_allowed is None
            else plaintext_allowed,
        )
        change = Change(before, wanted) if dry_run else protecting.protect(tx, name, wanted, _MADE_BY)
    _answer(tenant_id, name, change, as_json=as_json, dry_run=dry_run)


def unprotect(  # noqa: PLR0913 - one parameter an option
    tenant: Tenant,
    service: Service,
    place: Place,
    field: Field,
    *,
    store: StoreOption = None,
    confirm: ConfirmTenant = None,
    dry_run: DryRun = False,
    as_json: output.AsJson = False,
) -> None:
    """Remove the protection of a field."""
    tenant_id, name = parse_tenant_id(tenant), parse_service_name(service)
    with operator_database(load_settings()) as database:
        with database.tenant_tx(tenant_id) as tx:
            wanted = _parse_field_name(tx, name, store, place, field)
            before = protecting.find(tx, name, wanted)
        if before is None:
            raise FieldNotProtected
        change = Change(before, None)
        if not dry_run:
            refuse_unconfirmed(tenant_id, confirm, " ".join(consequences(before, None)), f"unprotect {before.name}")
            with database.tenant_tx(tenant_id) as tx:
                change = protecting.unprotect(tx, name, wanted, _MADE_BY)
    _answer(tenant_id, name, change, as_json=as_json, dry_run=dry_run)


def _refuse_unknown(tx: TenantTransaction, service: str) -> None:
    if tx.tenants.get() is None:
        raise TenantUnknown
    if tx.services.get(service) is None:
        raise ServiceUnknown


def _store(tx: TenantTransaction, service: str, store: Store | None) -> Store:
    """Return the given store, or the store of the service's kind; raises FieldInvalid without either."""
    _refuse_unknown(tx, service)
    row = tx.services.get(service)
    found = store or (store_of(row.kind) if row is not None else None)
    if found is None:
        raise FieldInvalid("a microservice can use either store", f"add --store {' or --store '.join(Store)}")
    return found


def _parse_field_name(
    tx: TenantTransaction, service: str, store: Store | None, place: str, field: str
) -> ProtectedField:
    """Return the named field regardless of its mode; raises FieldInvalid."""
    return parse_field(_store(tx, service, store), place, field, Mode.RANDOMISED, plaintext_allowed=False)


def _describe_field(field: ProtectedField | None) -> dict[str, Any] | None:
    if field is None:
        return None
    return {
        "store": field.store,
        "place": field.place,
        "field": field.field,
        "mode": field.mode,
        "plaintext_allowed": field.plaintext_allowed,
    }


def _describe_row(row: ProtectedFieldRow) -> dict[str, Any]:
    return {
        **(_describe_field(row.field) or {}),
        "changed_by": row.changed_by,
        "changed_at": row.changed_at.isoformat(),
    }


def _answer(tenant_id: str, service: str, change: Change, *, as_json: bool, dry_run: bool) -> None:
    named = change.after or change.before
    sentences = consequences(change.before, change.after)
    document: dict[str, Any] = {
        "tenant_id": tenant_id,
        "service_id": service,
        "before": _describe_field(change.before),
        "after": _describe_field(change.after),
        "changed": change.before != change.after and not dry_run,
        "consequences": list(sentences),
    }

    def draw(console: Console) -> None:
        name = named.name if named is not None else ""
        effect = "is protected" if change.after is not None else "is no longer protected"
        if change.before == change.after:
            console.print(Text(f"{name} of {service} already has this protection"))
        elif dry_run:
            console.print(Text(f"nothing was changed; without --dry-run, {name} of {service} {effect}:"))
        else:
            console.print(Text(f"{name} of {service} {effect}; programs apply this within {OBEYED_SECONDS} seconds:"))
        for sentence in sentences:
            console.print(Text(f"- {sentence}"))

    output.answer(document, as_json=as_json, show=draw)


def _draw(console: Console, service: str, rows: Sequence[ProtectedFieldRow]) -> None:
    if not rows:
        console.print(Text(f"no field of {service} is protected"))
        return
    table = Table("store", "location", "field", "mode", "plain values", "changed", "by")
    for row in rows:
        one = row.field
        plain = "returned" if one.plaintext_allowed else "rejected"
        moment = row.changed_at.isoformat()[:19].replace("T", " ")
        table.add_row(*map(Text, (one.store, one.place, one.field, one.mode, plain, moment, row.changed_by)))
    console.print(table)
