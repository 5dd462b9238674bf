"""The tenant's id, typed once more, before something that cannot be taken back by mistake."""

import sys

import typer

from tenancy.errors import CallerError


class NotConfirmed(CallerError):
    """What was typed is not what was to be confirmed; nothing was changed."""

    code = "not_confirmed"
    message = "this is not the tenant's id, so nothing was changed"
    hint = "run the command again and type the id as it stands there"


def refuse_unconfirmed(tenant_id: str, confirm: str | None, consequence: str) -> None:
    """Return if a person or a script means this very tenant."""
    if confirm is not None:
        if confirm != tenant_id:
            raise typer.BadParameter("it is not the id of the tenant that is meant", param_hint="--confirm")
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            f"nobody is at a terminal to confirm this: add --confirm {tenant_id}; --dry-run shows what would happen",
            param_hint="--confirm",
        )
    typed = typer.prompt(f"{consequence}; type the tenant's id to go on", err=True)
    if typed.strip() != tenant_id:
        raise NotConfirmed
