"""What is said of a tenant's certificate authorities: which one issues, which one is still believed, and until when."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from core.certificates import AuthorityState
from core.tenants.lifecycle import DECRYPTS, State
from dashboard.components.formatting import code, moment
from database.certificates import AuthorityRow
from database.tenants import TenantRow

HAPPENS = (
    "Your tenant gets another certificate authority, signed and tried before anything trusts it. From then on it "
    "issues every certificate. Those that the one before it issued go on working until they expire, and are renewed by "
    "themselves under the new one; no service is interrupted."
)
UNDONE = "No, and there is no need: nothing stops working."


def lines(authorities: Sequence[AuthorityRow], until: Mapping[str, datetime | None], now: datetime) -> tuple[str, ...]:
    """Return a line for each authority that counts; `until` is when the last certificate of each expires."""
    said = []
    for row in authorities:
        if row.state is AuthorityState.CURRENT:
            said.append(
                f"**Current**: {code(row.serial)} issues every certificate; it ends {moment(row.not_after, now)}."
            )
        elif row.state is AuthorityState.FORMER:
            last = until.get(row.serial)
            end = (
                "it has no certificate left and ends within the hour"
                if last is None or last <= now
                else (f"its certificates are believed until the last of them expires, {moment(last, now)}")
            )
            said.append(f"**Former**: {code(row.serial)} issues nothing any more; {end}.")
        elif row.state is AuthorityState.PREPARED:
            said.append(f"**Prepared**: {code(row.serial)} is being tried; nothing believes it yet.")
    return tuple(said)


def why_not(tenant: TenantRow, authorities: Sequence[AuthorityRow]) -> str:
    """Return why the authority cannot be rolled now; empty when it can."""
    if tenant.state not in DECRYPTS | {State.LOCKED}:
        return f"It cannot be rolled while the tenant is {tenant.state}."
    if any(row.state is AuthorityState.FORMER for row in authorities):
        return "The former authority still has certificates; the next roll is possible when they have expired."
    return ""
