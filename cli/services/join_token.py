"""`openkcmctl service join-token`: a secret with which an agent enrols once as one service of a tenant.

Only the token goes to standard output or into a file, so that the agent can read either unchanged; explanations go to
standard error.
"""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli.connections import Tenant, operator_database
from config.settings import load_settings
from database.commands import make_join_token
from openkcm.cli import output
from openkcm.cli.files import new_file
from openkcm.contract.enrolment import agent_command, folder_of, parse_lifetime
from openkcm.contract.names import parse_service_name, parse_tenant_id
from openkcm.contract.services import ServiceKind

_MADE_BY = "operator"


def make(  # noqa: PLR0913 - one parameter an option
    tenant: Tenant,
    *,
    kind: Annotated[ServiceKind, typer.Option(help="Service type.")],
    name: Annotated[str, typer.Option(help="Name of the service, unique within the tenant.")],
    lifetime: Annotated[str, typer.Option(help="Validity of the token, at most 24h.")] = "1h",
    out: Annotated[
        Path | None, typer.Option(help="New file for the token, mode 0600; default: standard output.")
    ] = None,
    as_json: output.AsJson = False,
) -> None:
    """Create a one-time join token for the agent of a service."""
    tenant_id, service, settings = parse_tenant_id(tenant), parse_service_name(name), load_settings()
    lasting = parse_lifetime(lifetime)
    with ExitStack() as stack:
        # The file is written before the commit, because a token that was not written must not be valid.
        file = None if out is None else stack.enter_context(new_file(out))
        database = stack.enter_context(operator_database(settings))
        with database.tenant_tx(tenant_id) as tx:
            made = make_join_token(tx, service, kind, _MADE_BY, lasting, secrets.token_urlsafe(32))
            if file is not None:
                file.write(f"{made.token.text}\n".encode())
                file.flush()
    command = agent_command(settings.enrolment_url, service, kind, folder_of(service))
    document = {
        "tenant_id": tenant_id,
        "service_id": service,
        "kind": kind,
        "join_token": made.token.text if out is None else None,
        "file": out and str(out),
        "expires_at": made.expires_at.isoformat(),
        "agent_command": command,
    }

    def show(console: Console) -> None:
        until = f"{made.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        output.progress.print(Text(f"join token for {service} of {tenant_id}, for one use until {until}"))
        output.progress.print(Text("run the agent beside the service, with the token on standard input:"))
        output.progress.print(Text(command), soft_wrap=True)
        if out is None:
            console.print(Text(made.token.text), soft_wrap=True)
        else:
            output.progress.print(Text(f"the token is in {out}"), soft_wrap=True)

    output.answer(document, as_json=as_json, show=show)
