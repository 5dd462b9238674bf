"""What is said above every page of a tenant that does not stand as it should, the most urgent of it first."""

from datetime import datetime

from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import LockReason
from dashboard.components.tenant_status import Standing, Tone, standing
from dashboard.offboarding import view as leaving
from dashboard.root_keys.view import health
from database.offboarding import LeavingRow
from database.root_keys import HeldKeyRow
from database.tenants import TenantRow


def notices(
    tenant: TenantRow,
    key: HeldKeyRow | None,
    grace_seconds: float,
    now: datetime,
    left: LeavingRow | None = None,
) -> tuple[Standing, ...]:
    """Return what is to be said of the tenant's state and of its root key; empty where all is well.

    `left` is how far a tenant that leaves is.
    """
    said = []
    how = health(tenant, key, grace_seconds, now)
    if tenant.state is not State.ACTIVE:
        told = standing(tenant.state, tenant.locks)
        if how is not None and LockReason.ROOT_KEY in tenant.locks and how.tone is not Tone.GOOD:
            told = Standing(
                told.name,
                told.title,
                told.tone,
                told.meaning,
                f"{how.title} {how.since} {how.advice} {told.advice}",
            )
        said.append(leaving.notice(told, left, now))
    if how is not None and how.tone is not Tone.GOOD and tenant.state in DECRYPTS:
        title = "Your root key is out of reach" if how.tone is Tone.WARNING else "Your root key does not do its part"
        said.insert(0, Standing("Root key", title, how.tone, how.title, f"{how.since} {how.meanwhile} {how.advice}"))
    return tuple(said)
