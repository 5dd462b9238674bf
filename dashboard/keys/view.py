"""The page Keys from stored data: the two cards on top, and one row for each service key."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import MappingProxyType

from core.keys.rotation import KeyState
from core.services import ServiceState
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from dashboard.components.formatting import count, listed
from dashboard.components.key_map import KeyStatus, key_status
from dashboard.components.tenant_status import UNDER_WAY
from database.keys import KeyVersionRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import UsageCount, UsageTotalRow
from openkcm.contract.services import ServiceKind

DAYS = 30
"""Days of the line of requests, today included."""
OLD_COMPROMISED = "Old version compromised"
_DESTROYED_OBJECTS = frozenset({5, 6})
"""KMIP states of objects whose key material is destroyed."""


_KINDS: Mapping[ServiceKind, str] = MappingProxyType(
    {
        ServiceKind.MONGODB: "MongoDB",
        ServiceKind.POSTGRESQL: "PostgreSQL",
        ServiceKind.MICROSERVICE: "Microservice",
    }
)
"""Shorter than elsewhere: the table has nine columns."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Stored data of the table. `fields` counts the protected fields of each service."""

    tenant: TenantRow
    policy: TenantPolicy
    services: Sequence[ServiceRow]
    keys: Sequence[KeyVersionRow]
    objects: Sequence[ObjectCountRow] = ()
    fields: Mapping[str, int] = field(default_factory=dict)
    days: Sequence[UsageCount] = ()
    """Requests of the last `DAYS` days by service."""
    recent: Sequence[UsageTotalRow] = ()
    """Requests of the last 24 hours by service and operation."""


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """One row of the table. `age` of `cryptoperiod` is in days; None, as `due`, where no rotation is due by policy."""

    service: str
    kind: str
    version: str
    status: KeyStatus
    states: tuple[str, ...]
    last_used: datetime | None
    requests: tuple[int, ...]
    due: datetime | None
    age: int | None
    cryptoperiod: int
    protects: str
    old: tuple[int, ...]
    """Versions that no longer encrypt and are not destroyed, the oldest first."""


def wrapped_keys(tenant: TenantRow, service_keys: Sequence[KeyVersionRow]) -> str:
    """Return what the root key wraps, as service keys and as versions of them."""
    match tenant.state:
        case State.LOCKED:
            return "Locked: all decryption is rejected."
        case State.LEAVING:
            return "Grace period: all decryption is rejected."
        case State.OFFBOARDED:
            return "No longer in use for this tenant."
        case state if state in UNDER_WAY or state is State.FAILED:
            return "Not in use before activation."
    kept = [key for key in service_keys if key.state is not KeyState.DESTROYED]
    if not kept:
        return "Wraps no service key yet."
    services = count(len({key.service for key in kept}), "service key")
    return f"Wraps {services} in {count(len(kept), 'version')}."


def service_keys(facts: Facts, now: datetime) -> tuple[ServiceKey, ...]:
    """Return the key of each service that has one, by name."""
    versions: dict[str, list[KeyVersionRow]] = {}
    for key in facts.keys:
        versions.setdefault(key.service, []).append(key)
    known = {service.service: service for service in facts.services}
    used = _last_used(facts)
    lines = _lines(facts.days, now.date())
    return tuple(
        _row(name, versions[name], known.get(name), facts, used.get(name), lines.get(name, (0,) * DAYS), now)
        for name in sorted(versions)
    )


def _row(  # noqa: PLR0913, PLR0917 - the facts of one service
    name: str,
    versions: Sequence[KeyVersionRow],
    service: ServiceRow | None,
    facts: Facts,
    last_used: datetime | None,
    requests: tuple[int, ...],
    now: datetime,
) -> ServiceKey:
    active = next((key for key in versions if key.state is KeyState.ACTIVE), None)
    old = sorted(key.version for key in versions if key.state in {KeyState.DEACTIVATED, KeyState.COMPROMISED})
    status = key_status(facts.tenant.state, service, versions)
    compromised = any(key.state is KeyState.COMPROMISED for key in versions)
    extra = (OLD_COMPROMISED,) if compromised and status is not KeyStatus.COMPROMISED else ()
    newest = max(key.version for key in versions) if active is None else active.version
    since = None if active is None else active.activated_at or active.created_at
    rotated = since is not None and not (service is not None and service.state is ServiceState.DISCONNECTED)
    return ServiceKey(
        service=name,
        kind="" if service is None else _KINDS[service.kind],
        version=f"{newest} ({len(old)} old)" if old else str(newest),
        status=status,
        states=(status.value, *extra),
        last_used=last_used,
        requests=requests,
        due=since + facts.policy.service_key_age if since is not None and rotated else None,
        age=(now - since).days if since is not None and rotated else None,
        cryptoperiod=facts.policy.service_key_days,
        protects=_protects(name, facts),
        old=tuple(old),
    )


def _protects(service: str, facts: Facts) -> str:
    objects = sum(row.count for row in facts.objects if row.service == service and row.state not in _DESTROYED_OBJECTS)
    parts = [count(objects, "KMIP object")] if objects else []
    if fields := facts.fields.get(service, 0):
        parts.append(count(fields, "field"))
    return listed(parts) or "Nothing stored here"


def _last_used(facts: Facts) -> Mapping[str, datetime]:
    """Return the last known use of each service: an answered request, or a contact of the service."""
    used = {row.service: row.last_seen_at for row in facts.services if row.last_seen_at is not None}
    for row in facts.recent:
        if row.count > row.refused:
            used[row.service] = max(row.last_minute, used.get(row.service, row.last_minute))
    return used


def first_day(today: date) -> date:
    """Return the first day of the line of requests."""
    return today - timedelta(days=DAYS - 1)


def _lines(days: Sequence[UsageCount], today: date) -> Mapping[str, tuple[int, ...]]:
    counts: dict[str, Counter[date]] = {}
    for row in days:
        counts.setdefault(row.part, Counter())[row.day] += row.count
    first = first_day(today)
    return {
        service: tuple(of_day[first + timedelta(days=number)] for number in range(DAYS))
        for service, of_day in counts.items()
    }


def summary(keys: Sequence[ServiceKey]) -> str:
    """Return the accessible name of the table."""
    states = Counter(key.status for key in keys)
    parts = [f"{states[status]:,} {status.value.lower()}" for status in KeyStatus if states[status]]
    return f"{count(len(keys), 'service key')}: {listed(parts)}. Select a row for its actions."
