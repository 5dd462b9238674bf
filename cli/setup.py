"""`openkcmctl setup database | vault`: prepare your own servers, once and after each upgrade.

The embedded stack does the same automatically when it starts. Only this command needs administrator rights. They come
from two secret files that no running process reads; the files may be removed afterwards.
"""

import typer
from rich.console import Console

from config.secrets import (
    BOUNDARY_PUBLIC_KEY,
    DATABASE_ADMIN,
    ROLES,
    VAULT_ADMIN,
    database_credentials,
    ensure_secrets,
    read_secret,
    vault_secret,
)
from config.settings import Settings, load_settings
from core.errors.platform import SettingsInvalid
from openkcm.cli import output


def register(app: typer.Typer) -> None:
    setup = typer.Typer(help="Prepare your own servers, once and after each upgrade.", no_args_is_help=True)
    setup.command("database")(database)
    setup.command("vault")(vault)
    app.add_typer(setup, name="setup")


def database(*, as_json: output.AsJson = False) -> None:
    """Create roles, schema and row-level security in database_url; the secret database-admin is user:password."""
    from database.schema.setup import administrator_of, prepare_database  # noqa: PLC0415 - `setup vault` does not need it

    settings = load_settings()
    if settings.database_url is None:
        raise SettingsInvalid(
            "database_url is not set", "name your PostgreSQL in it; an embedded one is prepared when it starts"
        )
    ensure_secrets(settings.secrets)
    passwords, keys = database_credentials(settings.secrets)
    user, password = _administrator(settings)
    administrator = administrator_of(settings.database_url, user, password)
    applied = prepare_database(administrator, passwords=passwords, context_keys=keys)

    def show(console: Console) -> None:
        console.print(f"applied {', '.join(applied)}" if applied else "the database is up to date")

    output.answer({"applied": list(applied)}, as_json=as_json, show=show)


def vault(*, as_json: output.AsJson = False) -> None:
    """Set up mounts and policies at vault_address; the secret vault-admin is an administrator's token."""
    from vault.auth.client import token_session  # noqa: PLC0415 - `setup database` does not need it
    from vault.setup import SetupConfig, apply  # noqa: PLC0415 - likewise

    settings = load_settings()
    if settings.vault_address is None:
        raise SettingsInvalid(
            "vault_address is not set", "name your OpenBao or Vault in it; an embedded one is prepared when it starts"
        )
    folder = settings.secrets
    ensure_secrets(folder)
    session = token_session(
        settings.vault_address,
        read_secret(folder, VAULT_ADMIN),
        ca_file=settings.vault_ca_file,
        namespace=settings.vault_namespace,
    )
    apply(
        session,
        SetupConfig(
            secret_id_files={role.value: folder / vault_secret(role) for role in ROLES},
            boundary_public_key_file=folder / BOUNDARY_PUBLIC_KEY,
            server_names=settings.crypto_names,
        ),
    )
    output.answer(
        {"vault": settings.vault_address},
        as_json=as_json,
        show=lambda console: console.print(f"{settings.vault_address} is prepared"),
    )


def _administrator(settings: Settings) -> tuple[str, str]:
    user, separator, password = read_secret(settings.secrets, DATABASE_ADMIN).partition(":")
    if not separator:
        raise SettingsInvalid(f"the secret {DATABASE_ADMIN} is not user:password", "write both on one line")
    return user, password
