"""What the Overview says: the seed's dashboard, with what is on record behind each of its lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.services import ServiceState
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from dashboard.components.formatting import count, plain, relative
from dashboard.components.key_hierarchy import mode
from dashboard.components.tenant_status import UNDER_WAY, Severity
from dashboard.overview.isolation import Check
from dashboard.root_keys.view import Health
from database.provisioning import RouteRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow

_RECENT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the card: what, how it is, and why it is said."""

    label: str
    value: str
    tone: Severity
    detail: str


def title(tenant: TenantRow) -> str:
    """Return the page's heading."""
    return f"{plain(tenant.organization)} - Encryption Dashboard"


def connected(services: Sequence[ServiceRow]) -> int:
    """Return how many services have a certificate that opens something."""
    return sum(service.state is ServiceState.CONNECTED for service in services)


def services_using(tenant: TenantRow, services: Sequence[ServiceRow], now: datetime) -> tuple[str, str]:
    """Return how many services use encryption, and what to add to the number."""
    number = connected(services)
    if not number:
        return "0", "ready for integration" if tenant.state in ENCRYPTS else "none connected"
    recent = sum(
        service.state is ServiceState.CONNECTED
        and service.last_seen_at is not None
        and now - service.last_seen_at < _RECENT
        for service in services
    )
    return f"{number:,}", f"{recent:,} of {number:,} seen in the last 24 hours"


def key_management(
    tenant: TenantRow, check: Check | None, route: RouteRow | None, now: datetime, how: Health | None = None
) -> tuple[Line, ...]:
    """Return the three lines of the key management card; `how` does the root key that the customer holds."""
    return _master_key(tenant, how), _isolation(tenant, check, now), _integration(tenant, route)


def _master_key(tenant: TenantRow, how: Health | None) -> Line:
    if tenant.state is State.OFFBOARDED:
        return Line("Master Key", "Gone", Severity.BAD, "The tenant was offboarded and its keys were destroyed.")
    if how is not None and how.tone is not Severity.GOOD:
        return Line("Master Key", mode(tenant.root_key_mode), how.tone, f"{how.title} {how.since} See Keys.")
    platform = tenant.root_key_mode == "platform"
    detail = (
        "The platform holds your root key. Your tenant key is your own all the same; see Keys for the choices."
        if platform
        else "You hold the root key: with it gone, nothing opens, whatever the platform does. It answers now."
    )
    return Line("Master Key", mode(tenant.root_key_mode), Severity.GOOD, detail)


def _isolation(tenant: TenantRow, check: Check | None, now: datetime) -> Line:
    label = "Tenant Isolation"
    if check is not None and not check.passed:
        return Line(
            label,
            "Broken",
            Severity.BAD,
            f"{count(check.breached, 'attack')} of {check.attacks:,} succeeded {relative(check.at, now)}. Nothing "
            "of the tenant is served like this; the evidence is below and in the audit stream.",
        )
    if check is None:
        if tenant.state in UNDER_WAY:
            return Line(label, "Being set up", Severity.WORKING, "Nothing is reachable before its walls were attacked.")
        return Line(label, "Not checked", Severity.WARNING, "No boundary check of this tenant is on record.")
    detail = f"All {check.attacks:,} attacks across the tenant boundary were refused {relative(check.at, now)}."
    if tenant.state in UNDER_WAY:
        return Line(label, "Checked", Severity.WORKING, detail)
    return Line(label, "Active ✓", Severity.GOOD, detail)


def _integration(tenant: TenantRow, route: RouteRow | None) -> Line:
    label = "Service Integration"
    if tenant.state in UNDER_WAY:
        return Line(label, "Not ready yet", Severity.WORKING, "Services can connect once the tenant is active.")
    if tenant.state not in DECRYPTS or route is None:
        return Line(label, "Closed", Severity.BAD, "No service gets a key while the tenant is in this state.")
    if tenant.state not in ENCRYPTS:
        return Line(
            label, "Read only", Severity.WARNING, "Services can decrypt; nothing new is encrypted or connected."
        )
    return Line(label, "Ready ✓", Severity.GOOD, "Services can connect and request keys.")
