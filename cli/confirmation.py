"""Confirmation of a consequential command: the caller repeats the name of the tenant or service."""

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
    """The typed text is not the expected name; nothing was changed."""

    code = "not_confirmed"
    message = "the typed name does not match; nothing was changed"
    hint = "run the command again and type the name as the prompt shows it"


def refuse_unconfirmed(  # noqa: PLR0913 - the parts of one question
    name: str, confirm: str | None, consequence: str, action: str, *, what: str = TENANT, dry_run: bool = True
) -> None:
    """Return if the caller confirms `name` with --confirm or at a terminal.

    Args:
        name: the id or name to repeat.
        confirm: the value of --confirm; None asks at the terminal.
        consequence: what the command does, as the first part of the question.
        action: the verb and object after "to" in the question.
        what: what `name` is, `TENANT` or `SERVICE`.
        dry_run: whether the command has --dry-run; the error for scripts then mentions it.

    Raises:
        NotConfirmed: the text typed at the terminal differs from `name`.
        typer.BadParameter: --confirm differs from `name`, or is missing without a terminal.
    """
    if confirm is not None:
        if confirm != name:
            raise typer.BadParameter(f"this is not {what}", param_hint="--confirm")
        return
    if not sys.stdin.isatty():
        preview = "; --dry-run shows what would happen" if dry_run else ""
        raise typer.BadParameter(
            f"no terminal for the confirmation: add --confirm {name}{preview}", param_hint="--confirm"
        )
    typed = typer.prompt(f"{consequence}; type {name} to {action}", err=True)
    if typed.strip() != name:
        raise NotConfirmed(f"this is not {what}, so nothing was changed")
