"""`openkcmctl root-key`: show a tenant's root key and its health, run the preflight of another one, change to it.

The command has no identity at the key server and keeps no credentials. It encrypts the credentials for the worker and
stores them with the request; only the id of the request goes through Temporal.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import uuid4

import typer
from rich.text import Text

from cli import progress
from cli.audited import audited
from cli.connections import Ask, Tenant, ask_gateway, operator_database, require_tenant
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

_PREFLIGHT = """Test every permission and property that a root key needs; change nothing.

Exit status 1 when there is a problem; each problem is printed with its remedy."""
_CHANGE = """Wrap every service key of a tenant with another root key.

No data is re-encrypted and nothing is interrupted: the former key stays in force until every service key has been
unwrapped with the new one; then all of them are switched at once."""


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    keys = typer.Typer(no_args_is_help=True)
    root_key = RootKey(ask)
    keys.command("show")(show)
    keys.command("preflight")(with_place(root_key.preflight, _PREFLIGHT))
    keys.command("change")(with_place(root_key.change, _CHANGE))
    app.add_typer(keys, name="root-key")


def show(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Show a tenant's root key, its health and its changes."""
    settings = load_settings()
    with operator_database(settings) as database, database.tenant_tx(parse_tenant_id(tenant)) as tx:
        shown = describe_root_key(tx, settings.aws_principal)
    output.answer(shown, as_json=as_json, show=lambda console: root_key_view.draw(console, shown))


class RootKey:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def preflight(self, tenant_id: str, place: Place, source: Source, *, as_json: bool) -> None:
        """Print the problems that the preflight of a root key finds; with any problem the command fails."""
        settings = load_settings()
        with operator_database(settings) as database:
            row = require_tenant(database, tenant_id)
            request_id = _request(settings, database, tenant_id, place, source)
            with audited(
                database,
                tenant_id,
                AuditName.ROOT_KEY_PREFLIGHT_REQUESTED,
                place.name,
                **_audit_details(place, request_id),
            ):
                self._ask(settings, lambda gateway: gateway.preflight_root_key(tenant_id, request_id))
            problems = _problems(database, tenant_id, request_id)
        document = _document(row, problems)
        if not problems:
            output.answer(
                document,
                as_json=as_json,
                show=lambda console: console.print(Text(f"{place.name} is suitable as the root key of {tenant_id}")),
            )
            return
        several = "" if len(problems) == 1 else f", and {len(problems) - 1} more"
        output.answer_refused(
            document,
            problems[0].code,
            f"{problems[0].message}{several}",
            "fix the problems and try again; nothing was changed",
            as_json=as_json,
            show=lambda console: root_key_view.draw_problems(console, document["problems"]),
        )

    def change(self, tenant_id: str, place: Place, source: Source, *, as_json: bool) -> None:
        """Change the root key and print the result; the command fails when the former root key stays in force."""
        settings = load_settings()
        with operator_database(settings) as database:
            require_tenant(database, tenant_id)
            request_id = _request(settings, database, tenant_id, place, source)
            with _progress(database, tenant_id, as_json=as_json):
                refused = self._request_change(settings, database, tenant_id, place, request_id)
            row, problems = require_tenant(database, tenant_id), _problems(database, tenant_id, request_id)
        document = _document(row, problems)
        if refused is None:
            summary = f"every service key of {tenant_id} is wrapped by {place.name}"
            output.answer(document, as_json=as_json, show=lambda console: console.print(Text(summary), soft_wrap=True))
            return
        output.answer_refused(
            document,
            refused.code,
            refused.message,
            _next_step(refused, tenant_id, problems),
            as_json=as_json,
            show=lambda console: root_key_view.draw_problems(console, document["problems"]),
        )

    def _request_change(
        self, settings: Settings, database: Database, tenant_id: str, place: Place, request_id: str
    ) -> OpenKcmError | None:
        """Request the change; return a rejection or timeout, because the caller prints more beside it."""
        from workflows.client.updates import OperationTimeout  # noqa: PLC0415 - see cli.connections

        details = _audit_details(place, request_id)
        try:
            with audited(database, tenant_id, AuditName.ROOT_KEY_CHANGE_REQUESTED, place.name, **details):
                self._ask(settings, lambda gateway: gateway.change_root_key(tenant_id, request_id))
        except (CallerError, OperationTimeout) as refused:
            return refused
        return None


def _audit_details(place: Place, request_id: str) -> dict[str, str]:
    return {"provider": place.provider, "request": request_id}


def describe_root_key(tx: TenantTransaction, aws_principal: str | None) -> dict[str, Any]:
    """Return the facts about the tenant's root key as JSON types; raises TenantUnknown."""
    row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    key, changes, versions = tx.root_keys.current(), tx.root_keys.changes(), tx.root_keys.versions()
    place: Place = PlatformKeyRef() if key is None else key.place
    return {
        "tenant_id": row.tenant_id,
        "root_key_mode": row.root_key_mode,
        "name": ids.root_key(row.region) if key is None else key.name,
        # Only for a root key provider that numbers versions, and once a key is wrapped.
        "version": None if versions is None else versions.newest,
        "older_wraps": 0 if versions is None else versions.older,
        # The platform's own root key is not monitored and has no recorded health.
        "health": None if key is None else key.health,
        "health_message": None if key is None else health.meaning(key.health),
        "health_hint": None if key is None else health.remedy(key.health),
        "health_since": None if key is None else key.health_since.isoformat(),
        "place": place.model_dump(mode="json", exclude_none=True),
        "external_id": external_id(row.tenant_id),
        "aws_principal": aws_principal,
        "locks": list(row.locks),
        "changes": [_describe_change(change) for change in changes],
        "problems": [_describe_problem(problem) for problem in _last_found(tx, changes)],
    }


def _request(settings: Settings, database: Database, tenant_id: str, place: Place, source: Source) -> str:
    """Store the request and return its id."""
    intake = read_secret(settings.secrets, INTAKE_PUBLIC_KEY)
    request_id, credentials = uuid4().hex, source.read(place)
    encrypted = (
        None if isinstance(place, PlatformKeyRef) else encrypt_credentials(intake, tenant_id, request_id, credentials)
    )
    with database.tenant_tx(tenant_id) as tx:
        tx.root_keys.request(RootKeyRequestRow(request_id, place, encrypted))
    return request_id


def _problems(database: Database, tenant_id: str, request_id: str) -> Sequence[Problem]:
    with database.tenant_tx(tenant_id) as tx:
        return tx.root_keys.problems(request_id) or ()


def _last_found(tx: TenantTransaction, changes: Sequence[RootKeyChangeRow]) -> Sequence[Problem]:
    """Return the problems that stopped the newest change; empty if it succeeded or was to the platform's key."""
    newest = next(iter(changes), None)
    if newest is None or newest.root_key_id is None or newest.problem is None:
        return ()
    try:
        return tx.root_keys.problems(newest.root_key_id) or ()
    except RootKeyRequestUnknown:
        return ()


def _progress(database: Database, tenant_id: str, *, as_json: bool) -> AbstractContextManager[None]:
    return nullcontext() if as_json else show_progress(database, tenant_id)


def _next_step(refused: OpenKcmError, tenant_id: str, problems: Sequence[Problem]) -> str:
    if not isinstance(refused, CallerError):
        return f"the change continues automatically; see its progress with openkcmctl root-key show {tenant_id}"
    if problems:
        return "fix the problems and try again; the former root key is in force"
    return refused.hint


def _document(row: TenantRow, problems: Sequence[Problem]) -> dict[str, Any]:
    return {
        "tenant_id": row.tenant_id,
        "root_key_mode": row.root_key_mode,
        "problems": [_describe_problem(problem) for problem in problems],
    }


def show_progress(database: Database, tenant_id: str) -> AbstractContextManager[None]:
    """Show the progress of the next change of a tenant's root key."""

    def newest() -> RootKeyChangeRow | None:
        with database.tenant_tx(tenant_id) as tx:
            return next(iter(tx.root_keys.changes(1)), None)

    return progress.show_progress("changing the root key", newest, root_key_view.progress)


def _describe_problem(problem: Problem) -> dict[str, str]:
    return {"code": problem.code, "message": problem.message, "hint": problem.hint}


def _describe_change(change: RootKeyChangeRow) -> Mapping[str, Any]:
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
