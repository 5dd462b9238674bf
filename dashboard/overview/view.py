"""The texts of the page Overview, each derived from stored data."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.services import ServiceState
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from dashboard.components.formatting import count, plain, relative
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import UNDER_WAY, Severity
from dashboard.isolation.view import Check
from dashboard.root_keys.view import Health
from database.provisioning import RouteRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow

_RECENT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the card: label, state and explanation."""

    label: str
    value: str
    tone: Severity
    detail: str


def title(tenant: TenantRow) -> str:
    """Return the page's heading."""
    return f"{plain(tenant.organization)} - Encryption Dashboard"


def connected(services: Sequence[ServiceRow]) -> int:
    """Return how many services are connected."""
    return sum(service.state is ServiceState.CONNECTED for service in services)


def services_using(tenant: TenantRow, services: Sequence[ServiceRow], now: datetime) -> tuple[str, str]:
    """Return how many services use encryption, and the note to the number: one uses it if seen in the last day."""
    number = connected(services)
    if not number:
        return "0", "ready for integration" if tenant.state in ENCRYPTS else "none connected"
    recent = sum(
        service.state is ServiceState.CONNECTED
        and service.last_seen_at is not None
        and now - service.last_seen_at < _RECENT
        for service in services
    )
    return f"{recent:,} of {number:,}", "connected services seen in the last 24 hours"


def key_management(
    tenant: TenantRow, check: Check | None, route: RouteRow | None, now: datetime, how: Health | None = None
) -> tuple[Line, ...]:
    """Return the three lines of the key management card; `how` is the health of the customer's root key."""
    return _root_key(tenant, how), _isolation(tenant, check, now), _integration(tenant, route)


def _root_key(tenant: TenantRow, how: Health | None) -> Line:
    if tenant.state is State.OFFBOARDED:
        return Line("Root key", "Destroyed", Severity.BAD, "The tenant was offboarded and its keys were destroyed.")
    if how is not None and how.tone is not Severity.GOOD:
        return Line("Root key", mode(tenant.root_key_mode), how.tone, f"{how.title} {how.since} See Keys.")
    platform = tenant.root_key_mode == "platform"
    detail = (
        "The platform holds your root key. Your tenant key is dedicated to you; see Keys for other providers."
        if platform
        else "You hold the root key. Without it, nothing can be decrypted."
    )
    return Line("Root key", mode(tenant.root_key_mode), Severity.GOOD, detail)


def _isolation(tenant: TenantRow, check: Check | None, now: datetime) -> Line:
    label = "Tenant isolation"
    if check is not None and not check.passed:
        return Line(
            label,
            "Check failed",
            Severity.BAD,
            f"{check.breached:,} of {count(check.attacks, 'isolation check')} failed {relative(check.at, now)}. The "
            "tenant is not served in this state; the evidence is below and in the audit stream.",
        )
    if check is None:
        if tenant.state in UNDER_WAY:
            return Line(
                label,
                "Provisioning",
                Severity.WORKING,
                "No endpoint is reachable before the isolation checks have passed.",
            )
        return Line(label, "Not checked", Severity.WARNING, "No isolation check of this tenant is recorded.")
    detail = f"{check.held:,} of {count(check.attacks, 'isolation check')} passed {relative(check.at, now)}."
    if tenant.state in UNDER_WAY:
        return Line(label, "Checked", Severity.WORKING, detail)
    return Line(label, "Active ✓", Severity.GOOD, detail)


def _integration(tenant: TenantRow, route: RouteRow | None) -> Line:
    label = "Service integration"
    if tenant.state in UNDER_WAY:
        return Line(label, "Not ready", Severity.WORKING, "Services can connect once the tenant is active.")
    if tenant.state not in DECRYPTS or route is None:
        return Line(label, "Blocked", Severity.BAD, "Key requests are rejected while the tenant is in this state.")
    if tenant.state not in ENCRYPTS:
        return Line(
            label,
            "Read only",
            Severity.WARNING,
            "Services can decrypt. New data cannot be encrypted and no service can be connected.",
        )
    return Line(label, "Ready ✓", Severity.GOOD, "Services can connect and request keys.")
