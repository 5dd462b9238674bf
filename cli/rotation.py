"""`openkcmctl key rotate`: rotate a tenant's keys, retire old versions.

The request goes through the tenant's workflow; progress and result are read from the database. Before it makes data
unreadable, the command shows the consequences and asks for the tenant's id again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli import progress
from cli.audited import audited
from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Ask, Tenant, ask_gateway, operator_database
from cli.documents import describe_key_version, describe_rotation
from config.settings import Settings, load_settings
from core import names as ids
from core.errors.keys import KeyVersionUnknown
from core.errors.services import ServiceUnknown
from core.errors.tenants import TenantUnknown
from core.keys.rotation import MEANING, KeyState, RotationScope
from core.messages.keys import RotateRequest
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.keys import KeyVersionRow
from database.rotation import RotationRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_service_name, parse_tenant_id
from openkcm.errors import CallerError, OpenKcmError

Service = Annotated[str | None, typer.Option("--service", help="Rotate only the key of this service.")]
TenantKeyOnly = Annotated[bool, typer.Option("--tenant-key-only", help="Rotate only the tenant key.")]
Compromised = Annotated[
    bool,
    typer.Option("--compromised", help="Mark the replaced versions as compromised; they no longer decrypt."),
]
Retire = Annotated[
    int | None,
    typer.Option("--retire", min=1, help="Destroy this version of the service key; it must not be in use."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen and change nothing.")]


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    keys = typer.Typer(no_args_is_help=True)
    keys.command("rotate")(Rotate(ask).rotate)
    app.add_typer(keys, name="key")


class Rotate:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def rotate(  # noqa: PLR0913 - one parameter for each option
        self,
        tenant: Tenant,
        *,
        service: Service = None,
        tenant_key_only: TenantKeyOnly = False,
        compromised: Compromised = False,
        retire: Retire = None,
        dry_run: DryRun = False,
        confirm: ConfirmTenant = None,
        as_json: output.AsJson = False,
    ) -> None:
        """Rotate a tenant's keys: the tenant key and every service key.

        No data is re-encrypted and nothing is interrupted: the former versions still decrypt their ciphertexts.
        """
        tenant_id = parse_tenant_id(tenant)
        if service is not None:
            parse_service_name(service)
        _reject_contradictions(service, retire, tenant_key_only=tenant_key_only, compromised=compromised)
        request = _request(service, tenant_key_only=tenant_key_only, compromised=compromised)
        settings = load_settings()
        with operator_database(settings) as database:
            with database.tenant_tx(tenant_id) as tx:
                consequences = _consequences(tx, request, retire)
            if dry_run:
                document = _document(database, tenant_id) | {"consequences": consequences}
                output.answer(document, as_json=as_json, show=lambda console: _draw(console, consequences))
                return
            if compromised or retire is not None:
                if not as_json:
                    _draw(output.progress, consequences)
                refuse_unconfirmed(tenant_id, confirm, _question(consequences), "continue")
            if service is not None and retire is not None:
                with audited(database, tenant_id, AuditName.RETIRE_REQUESTED, service, version=str(retire)):
                    self._ask(settings, lambda gateway: gateway.retire_service_key(tenant_id, service, retire))
                refused: OpenKcmError | None = None
            else:
                with _show_progress(database, tenant_id, as_json=as_json):
                    refused = self._request_rotation(settings, database, tenant_id, request)
            document = _document(database, tenant_id)
        if refused is not None:
            output.answer_refused(document, refused.code, refused.message, refused.hint, as_json=as_json)
        output.answer(document, as_json=as_json, show=lambda console: _draw_end(console, document, service, retire))

    def _request_rotation(
        self, settings: Settings, database: Database, tenant_id: str, request: RotateRequest
    ) -> OpenKcmError | None:
        """Request the rotation; return a rejection or timeout, because the caller prints more beside it."""
        from workflows.client.updates import OperationTimeout  # noqa: PLC0415 - see cli.connections

        details = {"services": str(request.services), "compromised": str(request.compromised).lower()}
        try:
            with audited(database, tenant_id, AuditName.ROTATE_REQUESTED, request.service or tenant_id, **details):
                self._ask(settings, lambda gateway: gateway.rotate_keys(tenant_id, request))
        except (CallerError, OperationTimeout) as refused:
            return refused
        return None


def _reject_contradictions(
    service: str | None, retire: int | None, *, tenant_key_only: bool, compromised: bool
) -> None:
    if service is not None and tenant_key_only:
        raise typer.BadParameter("--tenant-key-only cannot be combined with --service", param_hint="--tenant-key-only")
    if retire is not None and service is None:
        raise typer.BadParameter("--retire needs --service NAME", param_hint="--retire")
    if retire is not None and compromised:
        raise typer.BadParameter("--retire cannot be combined with --compromised", param_hint="--retire")


def _request(service: str | None, *, tenant_key_only: bool, compromised: bool) -> RotateRequest:
    scope = RotationScope.ONE if service is not None else RotationScope.NONE if tenant_key_only else RotationScope.ALL
    return RotateRequest(
        request_id=uuid4().hex,
        services=scope,
        service=service,
        tenant_key=service is None,
        compromised=compromised,
    )


def _consequences(tx: TenantTransaction, request: RotateRequest, retire: int | None) -> list[dict[str, Any]]:
    """Return the effect on each key version; raises the same errors as the workflow."""
    if tx.tenants.get() is None:
        raise TenantUnknown
    every = tx.services.keys()
    versions = [key for key in every if request.services is RotationScope.ALL or key.service == request.service]
    if request.service is not None and not versions:
        raise ServiceUnknown
    if retire is not None:
        named = [key for key in versions if key.version == retire]
        if not named:
            raise KeyVersionUnknown
        return [_version(named[0], "destroyed: its ciphertexts can never be decrypted again")]
    end = "compromised: no longer decrypts for callers" if request.compromised else "decrypts only"
    concerned = {KeyState.ACTIVE, KeyState.DEACTIVATED} if request.compromised else {KeyState.ACTIVE}
    effects = [_version(key, end) for key in versions if key.state in concerned]
    key = tx.keys.get(ids.l2_key(tx.tenant_id)) if request.tenant_key else None
    if key is not None:
        end = "deleted, also for backups of the database" if request.compromised else "retired"
        effects.insert(0, {"key": key.name, "version": key.version, "becomes": end, "last_opened_at": None})
    return effects


def _version(key: KeyVersionRow, becomes: str) -> dict[str, Any]:
    used = key.last_opened_at and key.last_opened_at.isoformat()
    return {"key": key.service, "version": key.version, "becomes": becomes, "last_opened_at": used}


def _document(database: Database, tenant_id: str) -> dict[str, Any]:
    with database.tenant_tx(tenant_id) as tx:
        row, key = tx.tenants.get(), tx.keys.get(ids.l2_key(tenant_id))
        rotation, versions = next(iter(tx.rotations.all(1)), None), tx.services.keys()
    if row is None:
        raise TenantUnknown
    return {
        "tenant_id": tenant_id,
        "state": row.state,
        "operation": None if rotation is None else describe_rotation(tenant_id, rotation),
        "l2_versions": None if key is None else {"newest": key.version, "oldest": key.oldest},
        "service_keys": [describe_key_version(version) for version in versions],
    }


def _question(consequences: list[dict[str, Any]]) -> str:
    return f"{len(consequences)} key versions are replaced or destroyed; this cannot be undone"


def _draw(console: Console, consequences: list[dict[str, Any]]) -> None:
    table = Table("key", "version", "becomes", "last decryption")
    for one in consequences:
        used = (one["last_opened_at"] or "not recorded")[:19].replace("T", " ")
        table.add_row(*(Text(cell) for cell in (one["key"], str(one["version"]), one["becomes"], used)))
    console.print(table)


def _draw_end(console: Console, document: dict[str, Any], service: str | None, retire: int | None) -> None:
    if retire is not None:
        console.print(Text(f"version {retire} of the key of {service} is destroyed"))
        return
    versions = document["l2_versions"]
    console.print(Text(f"rotated; version {versions['newest']} of the tenant key wraps all service keys"))
    left = [key for key in document["service_keys"] if key["state"] == KeyState.COMPROMISED]
    if left:
        console.print(
            Text(f"{len(left)} compromised versions are destroyed automatically once no object is encrypted with them")
        )


def describe_progress(rotation: RotationRow) -> str:
    """Return the progress of a rotation in words."""
    text = MEANING[rotation.stage]
    return f"{text}: {rotation.done:,} of {rotation.total:,}" if rotation.total else text


@contextmanager
def _show_progress(database: Database, tenant_id: str, *, as_json: bool) -> Iterator[None]:
    if as_json:
        yield
        return

    def newest() -> RotationRow | None:
        with database.tenant_tx(tenant_id) as tx:
            return next(iter(tx.rotations.all(1)), None)

    with progress.show_progress("rotating keys", newest, describe_progress):
        yield
