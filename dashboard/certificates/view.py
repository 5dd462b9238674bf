"""Texts about a tenant's certificate authorities: which one issues, which are still trusted, and until when."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from core.certificates import AuthorityState
from core.tenants.lifecycle import DECRYPTS, State
from dashboard.components.formatting import code, moment
from database.certificates import AuthorityRow
from database.tenants import TenantRow

HAPPENS = (
    "Your tenant gets a new certificate authority. It is signed and tested before it is trusted, and then issues "
    "every certificate. Certificates of the former authority stay valid until they expire and are renewed "
    "automatically under the new one. No service is interrupted."
)
UNDONE = "No. No certificate stops working."


def lines(authorities: Sequence[AuthorityRow], until: Mapping[str, datetime | None], now: datetime) -> tuple[str, ...]:
    """Return a line for each relevant authority; `until` is the expiry of the last certificate of each."""
    shown = []
    for row in authorities:
        if row.state is AuthorityState.CURRENT:
            shown.append(
                f"**Current**: {code(row.serial)} issues every certificate; expires {moment(row.not_after, now)}."
            )
        elif row.state is AuthorityState.FORMER:
            last = until.get(row.serial)
            end = (
                "no valid certificates left, removed within the hour"
                if last is None or last <= now
                else (f"its certificates are trusted until the last one expires, {moment(last, now)}")
            )
            shown.append(f"**Former**: {code(row.serial)} no longer issues; {end}.")
        elif row.state is AuthorityState.PREPARED:
            shown.append(f"**Prepared**: {code(row.serial)} is being tested and is not trusted yet.")
    return tuple(shown)


def why_not(tenant: TenantRow, authorities: Sequence[AuthorityRow]) -> str:
    """Return why the authority cannot be replaced now; empty when it can."""
    if tenant.state not in DECRYPTS | {State.LOCKED}:
        return f"Not available while the tenant is {tenant.state}."
    if any(row.state is AuthorityState.FORMER for row in authorities):
        return "The former authority still has valid certificates. Try again after they have expired."
    return ""
