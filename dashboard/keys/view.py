"""Texts of the page Keys about root key, tenant key and service keys, from stored data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from core.names import root_key
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from dashboard.components.formatting import count, listed, moment
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import UNDER_WAY
from dashboard.rotation import view as rotation
from database.keys import KeyVersionRow, VersionUseRow
from database.root_keys import CustomerRootKeyRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import UsageTotalRow

OBJECT_STATES: Mapping[int, str] = MappingProxyType(
    {
        0: "without a state",
        1: "pre-active",
        2: "active",
        3: "deactivated",
        4: "compromised",
        5: "destroyed",
        6: "destroyed and compromised",
    }
)
"""KMIP states of managed objects, in the terms of the specification."""

MANY = 12
"""Minimum number of services to offer a search."""
_SHOWN = 24


@dataclass(frozen=True, slots=True)
class RootKey:
    mode: str
    name: str
    state: str


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of all service keys, the objects that each protects, and the rotation policy."""

    keys: Sequence[KeyVersionRow]
    uses: Sequence[VersionUseRow]
    policy: TenantPolicy


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """One service's key as text, newest version first."""

    service: str
    kind: str
    versions: tuple[str, ...]
    objects: str
    used: str


def root(tenant: TenantRow, held: CustomerRootKeyRow | None, service_keys: Sequence[KeyVersionRow]) -> RootKey:
    """Return the root key from stored data; `held` is the customer's own current key, None for the platform's."""
    name = root_key(tenant.region) if held is None else held.name
    return RootKey(mode(tenant.root_key_mode), name, _root_state(tenant, len({key.service for key in service_keys})))


def _root_state(tenant: TenantRow, wrapped: int) -> str:
    match tenant.state:
        case State.LOCKED:
            return "Locked: all decryption is rejected."
        case State.LEAVING:
            return "Grace period: all decryption is rejected."
        case State.OFFBOARDED:
            return "No longer in use for this tenant."
        case state if state in UNDER_WAY or state is State.FAILED:
            return "Not in use before activation."
    return f"Active: wraps {count(wrapped, 'service key')}." if wrapped else "Ready: wraps no service key yet."


def service_keys(
    services: Sequence[ServiceRow],
    held: Versions,
    objects: Sequence[ObjectCountRow],
    usage: Sequence[UsageTotalRow],
    now: datetime,
) -> tuple[ServiceKey, ...]:
    """Return the key of each service that has one, by name."""
    kinds = {service.service: service for service in services}
    versions: dict[str, list[KeyVersionRow]] = {}
    for key in held.keys:
        versions.setdefault(key.service, []).append(key)
    return tuple(
        ServiceKey(
            service=name,
            kind=kinds[name].kind.value if name in kinds else "",
            versions=rotation.versions(
                kinds.get(name),
                versions[name],
                [use for use in held.uses if use.service == name],
                held.policy,
                now,
            ),
            objects=_objects(row for row in objects if row.service == name),
            used=_used(kinds.get(name), [row for row in usage if row.service == name], now),
        )
        for name in sorted(versions)
    )


def found(keys: Sequence[ServiceKey], wanted: str) -> tuple[tuple[ServiceKey, ...], int]:
    """Return the keys whose service name contains the input, and how many more there are."""
    matching = [key for key in keys if wanted.strip().lower() in key.service]
    return tuple(matching[:_SHOWN]), max(len(matching) - _SHOWN, 0)


def _objects(rows: Iterable[ObjectCountRow]) -> str:
    counted = {row.state: row.count for row in rows}
    if not counted:
        return "Protects no KMIP objects."
    parts = [f"{number:,} {OBJECT_STATES.get(state, 'of another state')}" for state, number in sorted(counted.items())]
    return f"Protects {count(sum(counted.values()), 'KMIP object')}: {listed(parts)}."


def _used(service: ServiceRow | None, usage: Sequence[UsageTotalRow], now: datetime) -> str:
    times = [row.last_minute for row in usage if row.count > row.refused]
    times += [service.last_seen_at] if service is not None and service.last_seen_at is not None else []
    operations = sum(row.count - row.refused for row in usage)
    if not times:
        return "Never used."
    return f"Last used {moment(max(times), now)}. {count(operations, 'operation')} in the last 24 hours."
