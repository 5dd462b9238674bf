"""`openkcmctl tenant policy`: show and change the policy of a tenant.

A command is the act of one person, and an operator cannot give the approval of the tenant's second person. Therefore
only the dashboard can change a policy that requires an approval for any action.
"""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.connections import Ask, Tenant, operator_database
from config.settings import load_settings
from core.errors.tenants import TenantUnknown
from core.tenants.approvals import Action
from core.tenants.policy import SERVICE_KEY_BOUNDS, TENANT_KEY_BOUNDS, TenantPolicy, parse_policy
from database.connection.database import Database
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id

_NO_ACTIONS = "none"


class Policy:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def policy(  # noqa: PLR0913 - the options of the command
        self,
        tenant: Tenant,
        *,
        tenant_key_days: Annotated[
            int | None, typer.Option(help="Days until the tenant key is rotated, {} to {}.".format(*TENANT_KEY_BOUNDS))
        ] = None,
        service_key_days: Annotated[
            int | None, typer.Option(help="Days until a service key is rotated, {} to {}.".format(*SERVICE_KEY_BOUNDS))
        ] = None,
        four_eyes: Annotated[
            str | None,
            typer.Option(
                metavar="ACTION,...", help=f"Actions that need an approval, of {', '.join(Action)}; or {_NO_ACTIONS}."
            ),
        ] = None,
        revoked_keys_readable: Annotated[
            bool | None, typer.Option(help="Whether services may still get KMIP keys that were revoked.")
        ] = None,
        resources_recorded: Annotated[
            bool | None, typer.Option(help="Whether audit records name the resource or object of each key operation.")
        ] = None,
        as_json: output.AsJson = False,
    ) -> None:
        """Show the policy of a tenant; with an option, change it."""
        tenant_id, settings = parse_tenant_id(tenant), load_settings()
        with operator_database(settings) as database:
            policy = _read_policy(database, tenant_id)
            options = (tenant_key_days, service_key_days, four_eyes, revoked_keys_readable, resources_recorded)
            if any(option is not None for option in options):
                wanted = parse_policy(
                    policy.tenant_key_days if tenant_key_days is None else tenant_key_days,
                    policy.service_key_days if service_key_days is None else service_key_days,
                    policy.four_eyes if four_eyes is None else _parse_actions(four_eyes),
                    revoked_keys_readable=(
                        policy.revoked_keys_readable if revoked_keys_readable is None else revoked_keys_readable
                    ),
                    resources_recorded=policy.resources_recorded if resources_recorded is None else resources_recorded,
                )
                details = {name: str(value) for name, value in wanted.as_argument().items()}
                with audited(database, tenant_id, AuditName.POLICY_CHANGE_REQUESTED, **details):
                    self._ask(settings, lambda gateway: gateway.change_policy(tenant_id, wanted))
                policy = _read_policy(database, tenant_id)
        document = {"tenant_id": tenant_id, **policy.as_argument()}
        output.answer(document, as_json=as_json, show=lambda console: _draw(console, document))


def _parse_actions(text: str) -> list[str]:
    return [] if text.strip() == _NO_ACTIONS else [name.strip() for name in text.split(",") if name.strip()]


def _read_policy(database: Database, tenant_id: str) -> TenantPolicy:
    with database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
        return tx.policy.get()


def _draw(console: Console, document: dict[str, Any]) -> None:
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("tenant key (L2) is rotated after", f"{document['tenant_key_days']} days"),
        ("service keys (L3) are rotated after", f"{document['service_key_days']} days"),
        ("approval required for", ", ".join(document["four_eyes"]) or "nothing"),
        ("services may get revoked KMIP keys", "yes" if document["revoked_keys_readable"] else "no"),
        ("audit records name the resource", "yes" if document["resources_recorded"] else "no"),
    ):
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
