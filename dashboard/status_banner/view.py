"""What is said above every page of a tenant that does not stand as it should, the most urgent of it first."""

from datetime import datetime

from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import LockReason
from dashboard.components.tenant_status import Severity, TenantStatusView, standing
from dashboard.offboarding import view as leaving
from dashboard.root_keys.view import health
from database.offboarding import OffboardingRow
from database.root_keys import CustomerRootKeyRow
from database.tenants import TenantRow


def notices(
    tenant: TenantRow,
    key: CustomerRootKeyRow | None,
    grace_seconds: float,
    now: datetime,
    left: OffboardingRow | None = None,
) -> tuple[TenantStatusView, ...]:
    """Return what is to be said of the tenant's state and of its root key; empty where all is well.

    `left` is how far a tenant that leaves is.
    """
    said = []
    how = health(tenant, key, grace_seconds, now)
    if tenant.state is not State.ACTIVE:
        told = standing(tenant.state, tenant.locks)
        if how is not None and LockReason.ROOT_KEY in tenant.locks and how.tone is not Severity.GOOD:
            told = TenantStatusView(
                told.name,
                told.title,
                told.tone,
                told.meaning,
                f"{how.title} {how.since} {how.advice} {told.advice}",
            )
        said.append(leaving.notice(told, left, now))
    if how is not None and how.tone is not Severity.GOOD and tenant.state in DECRYPTS:
        title = (
            "Your root key is out of reach" if how.tone is Severity.WARNING else "Your root key does not do its part"
        )
        said.insert(
            0, TenantStatusView("Root key", title, how.tone, how.title, f"{how.since} {how.meanwhile} {how.advice}")
        )
    return tuple(said)
