"""`openkcm service join-token`: a secret by which an agent may once be one service of a tenant."""

import secrets
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cli import output
from cli.access import Tenant, operator_database
from config.settings import load_settings
from database.join_tokens import make_join_token
from tenancy.enrolment import agent_command, folder_of, parse_lifetime
from tenancy.ids import parse_service_name, parse_tenant_id
from tenancy.services import ServiceKind

_MADE_BY = "operator"


def make(
    tenant: Tenant,
    *,
    kind: Annotated[ServiceKind, typer.Option(help="What it is.")],
    name: Annotated[str, typer.Option(help="Its name within the tenant.")],
    lifetime: Annotated[str, typer.Option(help="How long the token can be used, at most 24h.")] = "1h",
    as_json: output.AsJson = False,
) -> None:
    """Make a token by which the agent beside a service enrols, once. It is shown now and never again."""
    tenant_id, service, settings = parse_tenant_id(tenant), parse_service_name(name), load_settings()
    lasting = parse_lifetime(lifetime)
    with operator_database(settings) as database, database.tenant_tx(tenant_id) as tx:
        made = make_join_token(tx, service, kind, _MADE_BY, lasting, secrets.token_urlsafe(32))
    document = {
        "tenant_id": tenant_id,
        "service_id": service,
        "kind": kind,
        "join_token": made.token.text,
        "expires_at": made.expires_at.isoformat(),
        "agent_command": agent_command(settings.enrolment_url, service, kind, folder_of(service)),
    }

    def show(console: Console) -> None:
        until = document["expires_at"][:19].replace("T", " ")
        console.print(Text(f"a token for {service} of {tenant_id}, good once and until {until} UTC:"))
        console.print(Text(document["join_token"]), soft_wrap=True)
        console.print(Text("run beside the service, and give it the token on standard input:"))
        console.print(Text(document["agent_command"]), soft_wrap=True)

    output.answer(document, as_json=as_json, show=show)
