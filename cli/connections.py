"""Connections of commands: to the database with a role, to the key server, and to workflows with their client."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from config.secrets import Role, context_key, read_database_password, read_secret, vault_secret
from config.settings import Settings
from core import names as ids
from core.errors.platform import DatabaseUnavailable, SettingsInvalid
from core.errors.tenants import TenantUnknown
from database.connection.database import Database
from database.tenants import TenantRow
from openkcm.contract.names import parse_tenant_id

if TYPE_CHECKING:
    from vault.auth.client import VaultSession
    from workflows.client.workflow_client import WorkflowClient

Tenant = Annotated[str, typer.Argument(help="The marketplace account id.")]

Question = Callable[["WorkflowClient"], Awaitable[None]]
Ask = Callable[[Settings, Question], None]
"""Runs a call of the workflow client and returns when it has completed; raises the errors of the client."""


@contextmanager
def operator_database(settings: Settings) -> Iterator[Database]:
    """Connect to the database as the operator, a role that reads all tenants and writes only requests."""
    with _database(settings, Role.OPERATOR) as database:
        yield database


@contextmanager
def dashboard_database(settings: Settings) -> Iterator[Database]:
    """Connect to the database as the dashboard, the only role that reads how customers use their keys.

    Raises:
        SettingsInvalid: the dashboard's secrets are missing on this machine.
    """
    try:
        read_database_password(settings.secrets, Role.DASHBOARD)
    except SettingsInvalid as missing:
        raise SettingsInvalid(
            missing.message, "run this where the dashboard runs: the operator's role cannot read the use of keys"
        ) from None
    with _database(settings, Role.DASHBOARD) as database:
        yield database


@contextmanager
def _database(settings: Settings, role: Role) -> Iterator[Database]:
    folder = settings.secrets
    try:
        key = bytes.fromhex(read_secret(folder, context_key(role)))
    except ValueError:
        raise SettingsInvalid(
            f"context key of {role} is not hexadecimal", "restore the file, or remove it and prepare the database again"
        ) from None
    password = read_database_password(folder, role)
    database = Database(settings.postgres_url, role, password, key, max_size=1)
    try:
        yield database
    except DatabaseUnavailable:
        database.require_login()
        raise
    finally:
        database.close()


def operator_vault(settings: Settings) -> "VaultSession":
    """Return a session at the key server as the operator."""
    from vault.auth.client import VaultSession  # noqa: PLC0415 - imports hvac, which most commands do not need

    return VaultSession(
        settings.vault_url,
        Role.OPERATOR,
        read_secret(settings.secrets, vault_secret(Role.OPERATOR)),
        ca_file=settings.vault_ca_file,
        namespace=settings.vault_namespace,
    )


def ask_gateway(settings: Settings, question: Question) -> None:
    """Connect to Temporal, run the call and wait for its result."""
    from workflows.client.workflow_client import WorkflowClient  # noqa: PLC0415 - Temporal's library dominates the start-up time of a command

    async def ask() -> None:
        await question(await WorkflowClient.connect(settings.temporal_address, settings.provisioning_slo_seconds))

    asyncio.run(ask())


def require_tenant(database: Database, tenant_id: str) -> TenantRow:
    """Return a tenant; raise TenantUnknown."""
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
    if row is None:
        raise TenantUnknown
    return row


def parse_any_tenant_id(tenant: str) -> str:
    """Return a tenant's id; operators may also read the platform's tenants, which cannot be enabled."""
    return tenant if tenant in ids.PLATFORM_TENANTS else parse_tenant_id(tenant)
