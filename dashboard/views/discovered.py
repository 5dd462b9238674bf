"""What the page Services says of services that the platform discovered and nobody connected so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.services import ServiceState
from dashboard.views.services import KIND_NAMES
from dashboard.views.words import moment
from database.services.enrolment import DiscoveryRow
from database.services.repository import ServiceRow
from openkcm.contract.services import ServiceKind


@dataclass(frozen=True, slots=True)
class Found:
    """One discovered service in words."""

    service: str
    kind: ServiceKind
    words: str


def found(discovered: Sequence[DiscoveryRow], services: Sequence[ServiceRow], now: datetime) -> tuple[Found, ...]:
    """Return the discovered services that are neither connected nor being connected."""
    there = {service.service for service in services if service.state is not ServiceState.DISCONNECTED}
    return tuple(
        Found(
            row.service,
            row.kind,
            f"{KIND_NAMES[row.kind]}, discovered {moment(row.discovered_at, now)}; it encrypts nothing with OpenKCM",
        )
        for row in discovered
        if row.service not in there
    )
