"""The notices above every page of a tenant with a problem, the most urgent first."""

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
    """Return the notices for the tenant state and its root key; empty without a problem.

    `left` is the progress of an offboarding tenant.
    """
    shown = []
    how = health(tenant, key, grace_seconds, now)
    if tenant.state is not State.ACTIVE:
        status = standing(tenant.state, tenant.locks)
        if how is not None and LockReason.ROOT_KEY in tenant.locks and how.tone is not Severity.GOOD:
            status = TenantStatusView(
                status.name,
                status.title,
                status.tone,
                status.meaning,
                f"{how.title} {how.since} {how.advice} {status.advice}",
            )
        shown.append(leaving.notice(status, left, now))
    if how is not None and how.tone is not Severity.GOOD and tenant.state in DECRYPTS:
        title = "Root key unreachable" if how.tone is Severity.WARNING else "Root key not usable"
        shown.insert(
            0, TenantStatusView("Root key", title, how.tone, how.title, f"{how.since} {how.meanwhile} {how.advice}")
        )
    return tuple(shown)
