"""`openkcmctl root-key`: who holds a tenant's root key and how it does, try another one, change to it.

The command holds no identity at the key server and keeps no credentials: they are sealed here for the worker alone and
stored with the request, whose id is all that goes through Temporal.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import uuid4

import typer
from rich.text import Text

from cli import progress
from cli.audited import audited
from cli.connections import Ask, Tenant, ask_gateway, operator_database
from cli.root_keys import output as health
from cli.root_keys import output as root_key_view
from cli.root_keys.credentials import Source
from cli.root_keys.locations import with_place
from config.credential_encryption import encrypt_credentials
from config.secrets import INTAKE_PUBLIC_KEY, read_secret
from config.settings import Settings, load_settings
from core import names as ids
from core.errors.keys import RootKeyRequestUnknown
from core.errors.tenants import TenantUnknown
from core.keys.root_keys import Place, PlatformKeyRef, Problem, external_id
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.root_keys import RootKeyChangeRow, RootKeyRequestRow
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import CallerError, OpenKcmError

_PREFLIGHT = """Try a root key: everything a tenant will need of it. Nothing is changed.

Exits with 1 when something is missing, and says what to do about each."""
_CHANGE = """Put every service key of a tenant under another root key.

No data is encrypted anew and nothing is interrupted: the former key is in force until every service key was seen to
open under the new one, and then all of them are switched at once."""


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    keys = typer.Typer(help="Look at the root key of a tenant, try another one, change to it.", no_args_is_help=True)
    root_key = RootKey(ask)
    keys.command("show")(show)
    keys.command("preflight")(with_place(root_key.preflight, _PREFLIGHT))
    keys.command("change")(with_place(root_key.change, _CHANGE))
    app.add_typer(keys, name="root-key")


def show(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Show who holds a tenant's root key, how it does, and what was changed."""
    settings = load_settings()
    with operator_database(settings) as database, database.tenant_tx(parse_tenant_id(tenant)) as tx:
        shown = everything(tx, settings.aws_principal)
    output.answer(shown, as_json=as_json, show=lambda console: root_key_view.draw(console, shown))


class RootKey:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def preflight(self, tenant_id: str, place: Place, source: Source, *, as_json: bool) -> None:
        """Print what the preflight of a place finds; ends the command as refused when it finds something."""
        settings = load_settings()
        with operator_database(settings) as database:
            row = _known(database, tenant_id)
            request_id = _request(settings, database, tenant_id, place, source)
            with audited(
                database, tenant_id, AuditName.ROOT_KEY_PREFLIGHT_REQUESTED, place.name, **_told(place, request_id)
            ):
                self._ask(settings, lambda gateway: gateway.preflight_root_key(tenant_id, request_id))
            problems = _problems(database, tenant_id, request_id)
        document = _document(row, problems)
        if not problems:
            output.answer(
                document,
                as_json=as_json,
                show=lambda console: console.print(Text(f"{place.name} can be the root key of {tenant_id}")),
            )
            return
        several = "" if len(problems) == 1 else f", and {len(problems) - 1} more"
        output.answer_refused(
            document,
            problems[0].code,
            f"{problems[0].message}{several}",
            "mend what was found and try again; nothing was changed",
            as_json=as_json,
            show=lambda console: root_key_view.draw_problems(console, document["problems"]),
        )

    def change(self, tenant_id: str, place: Place, source: Source, *, as_json: bool) -> None:
        """Change the root key and print how it went; ends the command as refused when the former one stays."""
        settings = load_settings()
        with operator_database(settings) as database:
            _known(database, tenant_id)
            request_id = _request(settings, database, tenant_id, place, source)
            with _progress(database, tenant_id, as_json=as_json):
                refused = self._asked(settings, database, tenant_id, place, request_id)
            row, problems = _known(database, tenant_id), _problems(database, tenant_id, request_id)
        document = _document(row, problems)
        if refused is None:
            told = f"every service key of {tenant_id} lies under {place.name}"
            output.answer(document, as_json=as_json, show=lambda console: console.print(Text(told), soft_wrap=True))
            return
        output.answer_refused(
            document,
            refused.code,
            refused.message,
            _next_step(refused, tenant_id, problems),
            as_json=as_json,
            show=lambda console: root_key_view.draw_problems(console, document["problems"]),
        )

    def _asked(
        self, settings: Settings, database: Database, tenant_id: str, place: Place, request_id: str
    ) -> OpenKcmError | None:
        """Ask; return the refusal, or that it is not done yet, beside which there is more to tell."""
        from workflows.client.workflow_client import OperationTimeout as NotDoneInTime  # noqa: PLC0415 - see cli.connections

        told = _told(place, request_id)
        try:
            with audited(database, tenant_id, AuditName.ROOT_KEY_CHANGE_REQUESTED, place.name, **told):
                self._ask(settings, lambda gateway: gateway.change_root_key(tenant_id, request_id))
        except (CallerError, NotDoneInTime) as refused:
            return refused
        return None


def _told(place: Place, request_id: str) -> dict[str, str]:
    return {"provider": place.provider, "request": request_id}


def everything(tx: TenantTransaction, aws_principal: str | None) -> dict[str, Any]:
    """Return what there is to know of the tenant's root key, as JSON's types; raises TenantUnknown."""
    row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    key, changes, versions = tx.root_keys.current(), tx.root_keys.changes(), tx.root_keys.versions()
    place: Place = PlatformKeyRef() if key is None else key.place
    return {
        "tenant_id": row.tenant_id,
        "root_key_mode": row.root_key_mode,
        "name": ids.root_key(row.region) if key is None else key.name,
        # Of a key whose holder numbers its versions, once something lies under it.
        "version": None if versions is None else versions.newest,
        "older_wraps": 0 if versions is None else versions.older,
        # The platform's own is not tried by the watch, so nothing is on record of it.
        "health": None if key is None else key.health,
        "health_message": None if key is None else health.meaning(key.health),
        "health_hint": None if key is None else health.healed_by(key.health),
        "health_since": None if key is None else key.health_since.isoformat(),
        "place": place.model_dump(mode="json", exclude_none=True),
        "external_id": external_id(row.tenant_id),
        "aws_principal": aws_principal,
        "locks": list(row.locks),
        "changes": [_of_change(change) for change in changes],
        "problems": [_of_problem(problem) for problem in _last_found(tx, changes)],
    }


def _request(settings: Settings, database: Database, tenant_id: str, place: Place, source: Source) -> str:
    """Store what is asked for and return its id."""
    intake = read_secret(settings.secrets, INTAKE_PUBLIC_KEY)
    request_id, credentials = uuid4().hex, source.read(place)
    sealed = (
        None if isinstance(place, PlatformKeyRef) else encrypt_credentials(intake, tenant_id, request_id, credentials)
    )
    with database.tenant_tx(tenant_id) as tx:
        tx.root_keys.request(RootKeyRequestRow(request_id, place, sealed))
    return request_id


def _known(database: Database, tenant_id: str) -> TenantRow:
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    return row


def _problems(database: Database, tenant_id: str, request_id: str) -> Sequence[Problem]:
    with database.tenant_tx(tenant_id) as tx:
        return tx.root_keys.problems(request_id) or ()


def _last_found(tx: TenantTransaction, changes: Sequence[RootKeyChangeRow]) -> Sequence[Problem]:
    """Return what stopped the newest change; of one that went well, or was to the platform's key, that is nothing."""
    newest = next(iter(changes), None)
    if newest is None or newest.root_key_id is None or newest.problem is None:
        return ()
    try:
        return tx.root_keys.problems(newest.root_key_id) or ()
    except RootKeyRequestUnknown:
        return ()


def _progress(database: Database, tenant_id: str, *, as_json: bool) -> AbstractContextManager[None]:
    return nullcontext() if as_json else shown(database, tenant_id)


def _next_step(refused: OpenKcmError, tenant_id: str, problems: Sequence[Problem]) -> str:
    if not isinstance(refused, CallerError):
        return f"it goes on by itself and needs nobody here: openkcmctl root-key show {tenant_id} says how far it is"
    if problems:
        return "mend what was found and ask again; the former root key is in force"
    return refused.hint


def _document(row: TenantRow, problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "root_key_mode": row.root_key_mode,
        "problems": [_of_problem(problem) for problem in problems],
    }


def shown(database: Database, tenant_id: str) -> AbstractContextManager[None]:
    """Show how far the next change of a tenant's root key is."""

    def newest() -> RootKeyChangeRow | None:
        with database.tenant_tx(tenant_id) as tx:
            return next(iter(tx.root_keys.changes(1)), None)

    return progress.shown("changing the root key", newest, root_key_view.progress)


def _of_problem(problem: Problem) -> dict[str, str]:
    return {"code": problem.code, "message": problem.message, "hint": problem.hint}


def _of_change(change: RootKeyChangeRow) -> Mapping[str, Any]:
    return {
        "number": change.number,
        "from_mode": change.from_mode,
        "from_name": change.from_name,
        "to_mode": change.to_mode,
        "to_name": change.to_name,
        "state": change.state,
        "wrapped": change.wrapped,
        "total": change.total,
        "problem": change.problem,
        "started_at": change.started_at.isoformat(),
        "finished_at": change.finished_at and change.finished_at.isoformat(),
    }
