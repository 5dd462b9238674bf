"""`openkcmctl certificate rotate-ca|crl`: rotate a tenant CA, export its CRL."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cli.audited import audited
from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Ask, Tenant, ask_gateway, operator_database
from cli.documents import describe_ca, describe_crl
from config.settings import load_settings
from core.certificates import AuthorityState
from core.errors.tenants import TenantUnknown
from core.names import PLATFORM_TENANTS
from openkcm.cli import output
from openkcm.cli.files import replace_file
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import CallerError


class NoRevocationList(CallerError):
    code = "no_revocation_list"
    message = "this tenant CA has no CRL"
    hint = "the first CRL is published within minutes; a former CA has one until its last certificate expires"


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    certificates = typer.Typer(no_args_is_help=True)
    ca = CaCommands(ask)
    certificates.command("rotate-ca")(ca.roll)
    certificates.command("crl")(ca.crl)
    app.add_typer(certificates, name="certificate")


class CaCommands:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def roll(self, tenant: Tenant, *, confirm: ConfirmTenant = None, as_json: output.AsJson = False) -> None:
        """Rotate the tenant CA; certificates of the former CA stay valid until they expire."""
        tenant_id, settings = _parse_tenant_id(tenant), load_settings()
        with operator_database(settings) as database:
            with database.tenant_tx(tenant_id) as tx:
                if tx.tenants.get() is None:
                    raise TenantUnknown
            refuse_unconfirmed(tenant_id, confirm, _consequence(tenant_id), "rotate its CA", dry_run=False)
            with audited(database, tenant_id, AuditName.AUTHORITY_ROLL_REQUESTED):
                self._ask(settings, lambda gateway: gateway.roll_authority(tenant_id))
            with database.tenant_tx(tenant_id) as tx:
                rows = [
                    describe_ca(row, tx.certificates.issued_until(row.serial)) for row in tx.certificates.authorities()
                ]
        current = next(row for row in rows if row["state"] == AuthorityState.CURRENT)
        until = current["not_after"][:10]
        summary = f"new tenant CA of {tenant_id}: {current['serial']}, valid until {until}"
        output.answer(
            {"tenant_id": tenant_id, "authorities": rows},
            as_json=as_json,
            show=lambda console: console.print(Text(summary)),
        )

    def crl(
        self,
        tenant: Tenant,
        *,
        out: Annotated[Path, typer.Option(help="Output file, DER.", dir_okay=False)],
        former: Annotated[bool, typer.Option("--former", help="Export the CRL of the former CA.")] = False,
        as_json: output.AsJson = False,
    ) -> None:
        """Export the CRL of a tenant CA (RFC 5280)."""
        tenant_id = _parse_tenant_id(tenant)
        wanted = AuthorityState.FORMER if former else AuthorityState.CURRENT
        with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
            if tx.tenants.get() is None:
                raise TenantUnknown
            issuers = {row.serial for row in tx.certificates.authorities() if row.state is wanted}
            found = next((one for one in tx.certificates.revocation_lists() if one.authority in issuers), None)
        if found is None:
            raise NoRevocationList
        replace_file(out, found.der)
        summary = f"number {found.number}, valid until {found.next_update:%Y-%m-%d %H:%M} UTC, written to {out}"
        output.answer(
            {"tenant_id": tenant_id, "authority": found.authority, "file": str(out)} | describe_crl(found),
            as_json=as_json,
            show=lambda console: console.print(Text(summary)),
        )


def _consequence(tenant_id: str) -> str:
    return (
        f"a new CA issues every new certificate of {tenant_id}; this cannot be undone, and the next rotation is"
        " possible only after the last certificate of the present CA has expired"
    )


def _parse_tenant_id(tenant: str) -> str:
    """Return a tenant's id; the platform's tenants are allowed, because their CAs expire as well."""
    return tenant if tenant in PLATFORM_TENANTS else parse_tenant_id(tenant)
