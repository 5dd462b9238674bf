"""`openkcmctl setup database | vault | secrets`: prepare your own servers, once and after each upgrade.

The embedded stack does the same automatically when it starts. Only this command needs administrator rights. They come
from two secret files that no running process reads; the files may be removed afterwards.

A host without the secrets of the installation must not change it: with new passwords and keys, all running processes
would lose their access. So a server that is already set up keeps its secrets, and no file is written, unless `--add`
or `--replace` is given. `setup secrets` gives secret files new values beside the former ones, before the servers get
them, and removes the former ones at the end.
"""

from typing import Annotated

import typer
from rich.console import Console

from config.secrets import (
    BOUNDARY_PUBLIC_KEY,
    DATABASE_ADMIN,
    ROLES,
    VAULT_ADMIN,
    add_new_values,
    boundary_public_key,
    database_credentials,
    ensure_secrets,
    read_secret,
    remove_former_values,
    vault_secret,
)
from config.settings import Settings, load_settings
from core.errors.platform import SettingsInvalid
from core.existing_secrets import ExistingSecrets
from openkcm.cli import output

Add = Annotated[bool, typer.Option("--add", help="Let the server accept this host's secrets beside those it has.")]
Replace = Annotated[bool, typer.Option("--replace", help="Let the server accept only this host's secrets.")]
AddValues = Annotated[bool, typer.Option("--add", help="Write a new value before the present one.")]
ReplaceValues = Annotated[bool, typer.Option("--replace", help="Remove the former value.")]
Names = Annotated[list[str] | None, typer.Argument(help="Secret files, default: all that OpenKCM generates.")]


def register(app: typer.Typer) -> None:
    setup = typer.Typer(no_args_is_help=True)
    setup.command("database")(database)
    setup.command("vault")(vault)
    setup.command("secrets")(secrets)
    app.add_typer(setup, name="setup")


def database(*, add: Add = False, replace: Replace = False, as_json: output.AsJson = False) -> None:
    """Create roles, schema and row-level security in database_url; the secret database-admin is user:password."""
    from database.schema import setup  # noqa: PLC0415 - `setup vault` does not need it

    settings = load_settings()
    if settings.database_url is None:
        raise SettingsInvalid(
            "database_url is not set", "name your PostgreSQL in it; an embedded one is prepared when it starts"
        )
    administrator = setup.administrator_of(settings.database_url, *_administrator(settings))
    existing = _existing(add=add, replace=replace)
    if existing is ExistingSecrets.KEEP:
        setup.require_same_secrets(administrator, *database_credentials(settings.secrets))  # before files are written
    ensure_secrets(settings.secrets)
    passwords, keys = database_credentials(settings.secrets)
    applied = setup.prepare_database(
        administrator,
        passwords=passwords,
        context_keys=keys,
        existing=existing,
        report=lambda progress: typer.echo(progress, err=True),
    )

    def show(console: Console) -> None:
        console.print(f"applied {', '.join(applied)}" if applied else "the database is up to date")

    output.answer({"applied": list(applied)}, as_json=as_json, show=show)


def vault(*, add: Add = False, replace: Replace = False, as_json: output.AsJson = False) -> None:
    """Set up mounts and policies at vault_address; the secret vault-admin is an administrator's token."""
    from vault.auth.client import token_session  # noqa: PLC0415 - `setup database` does not need it
    from vault.setup import SetupConfig, apply, require_same_secrets  # noqa: PLC0415 - likewise

    settings = load_settings()
    if settings.vault_address is None:
        raise SettingsInvalid(
            "vault_address is not set", "name your OpenBao or Vault in it; an embedded one is prepared when it starts"
        )
    folder = settings.secrets
    session = token_session(
        settings.vault_address,
        read_secret(folder, VAULT_ADMIN),
        ca_file=settings.vault_ca_file,
        namespace=settings.vault_namespace,
    )
    wanted = SetupConfig(
        secret_id_files={role.value: folder / vault_secret(role) for role in ROLES},
        boundary_public_key_file=folder / BOUNDARY_PUBLIC_KEY,
        server_names=settings.crypto_names,
    )
    existing = _existing(add=add, replace=replace)
    if existing is ExistingSecrets.KEEP:
        require_same_secrets(session, wanted, boundary_public_key(folder))  # before files are written
    ensure_secrets(folder)
    apply(session, wanted, existing)
    output.answer(
        {"vault": settings.vault_address},
        as_json=as_json,
        show=lambda console: console.print(f"{settings.vault_address} is prepared"),
    )


def secrets(
    names: Names = None, *, add: AddValues = False, replace: ReplaceValues = False, as_json: output.AsJson = False
) -> None:
    """Replace secret files of this host in two steps: add new values, and later remove the former ones."""
    if add == replace:
        raise SettingsInvalid(
            "neither or both of --add and --replace are given", "use --add first, --replace when done"
        )
    change = add_new_values if add else remove_former_values
    changed = change(load_settings().secrets, names or ())

    def show(console: Console) -> None:
        console.print(f"changed {', '.join(changed)}" if changed else "no file needs a change")

    output.answer({"changed": list(changed)}, as_json=as_json, show=show)


def _existing(*, add: bool, replace: bool) -> ExistingSecrets:
    if add and replace:
        raise SettingsInvalid("--add and --replace exclude each other", "use --add first, and --replace when done")
    return ExistingSecrets.ADD if add else ExistingSecrets.REPLACE if replace else ExistingSecrets.KEEP


def _administrator(settings: Settings) -> tuple[str, str]:
    user, separator, password = read_secret(settings.secrets, DATABASE_ADMIN).partition(":")
    if not separator:
        raise SettingsInvalid(f"the secret {DATABASE_ADMIN} is not user:password", "write both on one line")
    return user, password
