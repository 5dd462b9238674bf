"""How a command that cannot be taken back lightly makes sure that this very tenant or service is meant."""

import sys
from typing import Annotated

import typer

from openkcm.errors import CallerError

TENANT = "the tenant's id"
SERVICE = "the service's name"
ConfirmTenant = Annotated[
    str | None, typer.Option("--confirm", metavar="TENANT", help="The tenant's id, in place of typing it.")
]
ConfirmService = Annotated[
    str | None, typer.Option("--confirm", metavar="NAME", help="The service's name, in place of typing it.")
]


class NotConfirmed(CallerError):
    """The typed text is not the name that was to be confirmed; nothing was changed."""

    code = "not_confirmed"
    message = "this is not the name to confirm, so nothing was changed"
    hint = "run the command again and type the name as the question shows it"


def refuse_unconfirmed(  # noqa: PLR0913 - the parts of one question
    name: str, confirm: str | None, consequence: str, deed: str, *, what: str = TENANT, dry_run: bool = True
) -> None:
    """Return if the caller confirms `name`, by --confirm or at a terminal.

    Args:
        name: the id or name to repeat.
        confirm: the value of --confirm; None asks at the terminal.
        consequence: what the command does, as the first part of the question.
        deed: the verb and object behind "to" in the question.
        what: what `name` is, `TENANT` or `SERVICE`.
        dry_run: whether the command has --dry-run, which the error for scripts names then.

    Raises:
        NotConfirmed: the text typed at the terminal is another.
        typer.BadParameter: --confirm is another, or is missing without a terminal.
    """
    if confirm is not None:
        if confirm != name:
            raise typer.BadParameter(f"this is not {what}", param_hint="--confirm")
        return
    if not sys.stdin.isatty():
        preview = "; --dry-run shows what would happen" if dry_run else ""
        raise typer.BadParameter(
            f"no terminal to confirm this at: add --confirm {name}{preview}", param_hint="--confirm"
        )
    typed = typer.prompt(f"{consequence}; type {name} to {deed}", err=True)
    if typed.strip() != name:
        raise NotConfirmed(f"this is not {what}, so nothing was changed")
