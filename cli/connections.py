"""How a command gets at a tenant: its rows with the operator's role, and its workflows through the gateway."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from config.secrets import Role, context_key, database_password, read_secret
from config.settings import Settings
from core import names as ids
from core.errors.platform import SettingsInvalid
from database.connection.database import Database
from openkcm.contract.names import parse_tenant_id

if TYPE_CHECKING:
    from workflows.client.workflow_client import WorkflowClient

Tenant = Annotated[str, typer.Argument(help="The marketplace account id.")]

Question = Callable[["WorkflowClient"], Awaitable[None]]
Ask = Callable[[Settings, Question], None]
"""Puts a question to the gateway and returns when it is answered; raises what the gateway raises."""


@contextmanager
def operator_database(settings: Settings) -> Iterator[Database]:
    """Open the database as the operator, who looks at everything and writes requests only."""
    with _database(settings, Role.OPERATOR) as database:
        yield database


@contextmanager
def dashboard_database(settings: Settings) -> Iterator[Database]:
    """Open the database as the dashboard, which alone reads what customers do with their keys.

    Raises:
        SettingsInvalid: the dashboard's secrets are not here; an operator's own do not do.
    """
    try:
        read_secret(settings.secrets, database_password(Role.DASHBOARD))
    except SettingsInvalid as missing:
        raise SettingsInvalid(
            missing.message, "run this where the dashboard runs: an operator's role sees no customer's use of keys"
        ) from None
    with _database(settings, Role.DASHBOARD) as database:
        yield database


@contextmanager
def _database(settings: Settings, role: Role) -> Iterator[Database]:
    folder = settings.secrets
    try:
        key = bytes.fromhex(read_secret(folder, context_key(role)))
    except ValueError:
        raise SettingsInvalid(f"the {role}'s context key is not hexadecimal", "make up writes it") from None
    password = read_secret(folder, database_password(role))
    database = Database(settings.postgres_url, role, password, key, max_size=1)
    try:
        yield database
    finally:
        database.close()


def ask_gateway(settings: Settings, question: Question) -> None:
    """Connect to Temporal, ask, and wait for the answer; `Ask` as the command itself does it."""
    from workflows.client.workflow_client import WorkflowClient as Gateway  # noqa: PLC0415 - Temporal's library is most of a command's start-up time

    async def ask() -> None:
        await question(await Gateway.connect(settings.temporal_address, settings.promise_seconds))

    asyncio.run(ask())


def named(tenant: str) -> str:
    """Return a tenant's id, the platform's own too: operators look at them, though nobody can enable one."""
    return tenant if tenant in ids.PLATFORM_TENANTS else parse_tenant_id(tenant)
