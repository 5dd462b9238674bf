"""`openkcmctl certificate rotate-ca|crl`: another authority for a tenant's certificates, and what it has revoked."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from cli.audited import audited
from cli.confirmation import ConfirmTenant, refuse_unconfirmed
from cli.connections import Ask, Tenant, ask_gateway, operator_database
from config.settings import load_settings
from core.certificates import AuthorityState
from core.errors.tenants import TenantUnknown
from core.names import PLATFORM_TENANTS
from database.certificates import AuthorityRow, RevocationListRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import CallerError


class NoRevocationList(CallerError):
    code = "no_revocation_list"
    message = "there is no revocation list of this authority"
    hint = "the first is published within minutes; a former authority has one while its certificates last"


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    certificates = typer.Typer(help="Rotate certificate authorities and fetch revocation lists.", no_args_is_help=True)
    authorities = Authorities(ask)
    certificates.command("rotate-ca")(authorities.roll)
    certificates.command("crl")(authorities.crl)
    app.add_typer(certificates, name="certificate")


class Authorities:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def roll(self, tenant: Tenant, *, confirm: ConfirmTenant = None, as_json: output.AsJson = False) -> None:
        """Have new certificates come from another authority; those of the one before go on until they expire."""
        tenant_id, settings = _named(tenant), load_settings()
        with operator_database(settings) as database:
            with database.tenant_tx(tenant_id) as tx:
                if tx.tenants.get() is None:
                    raise TenantUnknown
            refuse_unconfirmed(tenant_id, confirm, _consequence(tenant_id), "roll its authority", dry_run=False)
            with audited(database, tenant_id, AuditName.AUTHORITY_ROLL_REQUESTED):
                self._ask(settings, lambda gateway: gateway.roll_authority(tenant_id))
            with database.tenant_tx(tenant_id) as tx:
                rows = [
                    of_authority(row, tx.certificates.issued_until(row.serial)) for row in tx.certificates.authorities()
                ]
        current = next(row for row in rows if row["state"] == AuthorityState.CURRENT)
        until = current["not_after"][:10]
        told = f"certificates of {tenant_id} come from authority {current['serial']} now, which lasts until {until}"
        output.answer(
            {"tenant_id": tenant_id, "authorities": rows},
            as_json=as_json,
            show=lambda console: console.print(Text(told)),
        )

    def crl(
        self,
        tenant: Tenant,
        *,
        out: Annotated[Path, typer.Option(help="Write the list here, in DER.", dir_okay=False)],
        former: Annotated[bool, typer.Option("--former", help="That of the authority before the current one.")] = False,
        as_json: output.AsJson = False,
    ) -> None:
        """Write the revocation list of a tenant's authority (RFC 5280) into a file."""
        tenant_id = _named(tenant)
        wanted = AuthorityState.FORMER if former else AuthorityState.CURRENT
        with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
            if tx.tenants.get() is None:
                raise TenantUnknown
            issuers = {row.serial for row in tx.certificates.authorities() if row.state is wanted}
            found = next((one for one in tx.certificates.revocation_lists() if one.authority in issuers), None)
        if found is None:
            raise NoRevocationList
        out.write_bytes(found.der)
        told = f"number {found.number}, valid until {found.next_update:%Y-%m-%d %H:%M} UTC, written to {out}"
        output.answer(
            {"tenant_id": tenant_id, "authority": found.authority, "file": str(out)} | of_list(found),
            as_json=as_json,
            show=lambda console: console.print(Text(told)),
        )


def _consequence(tenant_id: str) -> str:
    return (
        f"another authority issues every new certificate of {tenant_id}; the roll cannot be undone, and the next one is"
        " possible when the last certificate of the present authority has expired"
    )


def of_authority(
    row: AuthorityRow, issued_until: datetime | None, listed: RevocationListRow | None = None
) -> dict[str, Any]:
    """Return an authority as JSON's types."""
    return {
        "serial": row.serial,
        "state": row.state,
        "key_version": row.key_version,
        "not_after": row.not_after.isoformat(),
        "issued_until": issued_until and issued_until.isoformat(),
        "revocation_list": listed and of_list(listed),
    }


def of_list(listed: RevocationListRow) -> dict[str, Any]:
    """Return what a revocation list says of itself, as JSON's types."""
    return {
        "number": listed.number,
        "this_update": listed.this_update.isoformat(),
        "next_update": listed.next_update.isoformat(),
    }


def _named(tenant: str) -> str:
    """Admit the platform's own too: their authorities end like any other."""
    return tenant if tenant in PLATFORM_TENANTS else parse_tenant_id(tenant)
