"""Texts of the page Services: connected services by kind, their agents, and discovered services.

All texts derive from stored data. Except for the time of the last contact, agent data is reported by the agent.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType

from compliance.coverage.assessment import PLAIN
from core.certificates import ExpiryStage, stage
from core.services import RENEWED, CryptoOperation, ServiceState
from core.tenants.lifecycle import ENCRYPTS
from dashboard.components.formatting import KIND_NAMES, code, count, listed, moment
from database.services.agents import HeartbeatRow, ProtectionUseRow
from database.services.enrolment import DiscoveryRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import UsageTotalRow
from openkcm.contract.services import AgentProblem, ServiceKind, is_connected

TITLES: Mapping[ServiceKind, str] = MappingProxyType(
    {
        ServiceKind.MONGODB: "MongoDB Clusters",
        ServiceKind.POSTGRESQL: "PostgreSQL Instances",
        ServiceKind.MICROSERVICE: "Microservices",
    }
)


MANY = 12
_SHOWN = 24
_DESTROYED = frozenset({5, 6})

# What each use reports about the data, in display order; other operations report nothing about it.
_USES: tuple[tuple[frozenset[CryptoOperation], str], ...] = (
    (
        frozenset({CryptoOperation.ENCRYPT, CryptoOperation.DECRYPT, CryptoOperation.REWRAP}),
        "records encrypted by OpenKCM",
    ),
    (
        frozenset({CryptoOperation.DATA_KEY, CryptoOperation.WRAPPED_DATA_KEY}),
        "data encrypted with data keys wrapped by its service key",
    ),
    (frozenset({CryptoOperation.GET}), "data encrypted with keys fetched over KMIP"),
    (frozenset({CryptoOperation.MAC}), "data authenticated by OpenKCM"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Stored data: usage of the last 24 hours, objects by state."""

    tenant: TenantRow
    services: list[ServiceRow]
    usage: list[UsageTotalRow]
    objects: list[ObjectCountRow]
    agents: list[HeartbeatRow] = field(default_factory=list)
    discovered: list[DiscoveryRow] = field(default_factory=list)
    programs: Mapping[str, int] = field(default_factory=dict)
    """Result of `per_day`: operations of the service's programs."""


@dataclass(frozen=True, slots=True)
class Card:
    """One service as texts; only a `connected` service can be renewed or disconnected."""

    service: str
    kind: ServiceKind
    icon: str
    state: str
    operations: str
    certificate: str
    seen: str
    protects: str
    connected: bool
    agent: str = ""
    """Status of its agents; empty without a heartbeat."""


@dataclass(frozen=True, slots=True)
class Group:
    kind: ServiceKind
    title: str
    cards: tuple[Card, ...]
    more: int


def groups(facts: Facts, now: datetime, wanted: str = "") -> tuple[Group, ...]:
    """Return the services by kind, filtered by `wanted` in the name, at most one page of each kind."""
    made = []
    for kind, title in TITLES.items():
        mine = [service for service in facts.services if service.kind is kind]
        matching = [service for service in mine if wanted.strip().lower() in service.service]
        cards = tuple(_card(service, facts, now) for service in matching[:_SHOWN])
        made.append(Group(kind, f"{title}: {_summary(facts, mine)}", cards, max(len(matching) - _SHOWN, 0)))
    return tuple(made)


def per_day(uses: Sequence[ProtectionUseRow]) -> Mapping[str, int]:
    """Return the operations per day of each service's programs: the busier of the given days.

    Operations are counted by UTC day, and a day that has just begun has few.
    """
    days: Counter[tuple[str, date]] = Counter()
    for use in uses:
        if not use.place.endswith(PLAIN):
            days[use.service, use.day] += use.operations
    busier: dict[str, int] = {}
    for (service, _), operations in days.items():
        busier[service] = max(operations, busier.get(service, 0))
    return busier


def why_not(tenant: TenantRow) -> str:
    """Return why no service can be connected now; empty when one can."""
    return "" if tenant.state in ENCRYPTS else f"Services cannot be connected while the tenant is {tenant.state}."


def why_no_renewal(tenant: TenantRow) -> str:
    """Return why no certificate can be renewed now; empty when one can."""
    return "" if tenant.state in RENEWED else f"Certificates cannot be renewed while the tenant is {tenant.state}."


def _summary(facts: Facts, services: Sequence[ServiceRow]) -> str:
    connected = {service.service for service in services if service.state is ServiceState.CONNECTED}
    if not connected:
        return "0 connected (ready)" if facts.tenant.state in ENCRYPTS else "0 connected"
    using = {row.service for row in facts.usage if row.count > row.refused and _says(row)}
    encrypting = connected & (using | {service for service, operations in facts.programs.items() if operations})
    if encrypting == connected:
        return f"{len(connected):,} connected, encrypting data ✓"
    if encrypting:
        return f"{len(connected):,} connected, {len(encrypting):,} encrypting data in the last 24 hours"
    return f"{len(connected):,} connected, not used in the last 24 hours"


def _says(row: UsageTotalRow) -> bool:
    return any(row.operation in operations for operations, _ in _USES)


def _card(service: ServiceRow, facts: Facts, now: datetime) -> Card:
    mine = [row for row in facts.usage if row.service == service.service]
    icon, state = _state(service, now)
    programs = facts.programs.get(service.service, 0)
    done, refused = programs + sum(row.count - row.refused for row in mine), sum(row.refused for row in mine)
    kept = sum(row.count for row in facts.objects if row.service == service.service and row.state not in _DESTROYED)
    return Card(
        service=service.service,
        kind=service.kind,
        icon=icon,
        state=state,
        operations=f"{done:,} operations/day" + (f", {refused:,} rejected" if refused else ""),
        certificate=_certificate(service, facts.tenant, now),
        seen=f"Last seen {moment(service.last_seen_at, now)}" if service.last_seen_at else "Never seen",
        protects=_protects(mine, kept, programs),
        connected=service.state is ServiceState.CONNECTED,
        agent=agent_status([one for one in facts.agents if one.service == service.service], now),
    )


def _state(service: ServiceRow, now: datetime) -> tuple[str, str]:
    match service.state:
        case ServiceState.CONNECTED:
            return "check_circle", f"Connected since {moment(service.connected_at, now, 'just now')}"
        case ServiceState.CONNECTING:
            return "pending", "Connecting: creating key and certificate"
        case ServiceState.DISCONNECTED:
            when = moment(service.disconnected_at, now, "earlier")
            return "link_off", f"Disconnected {when}; certificates revoked, key kept"


def _certificate(service: ServiceRow, tenant: TenantRow, now: datetime) -> str:
    begins, ends = service.certificate_not_before, service.certificate_not_after
    if begins is None or ends is None:
        return "No valid certificate"
    closed = why_no_renewal(tenant)
    match stage(begins, ends, now):
        case ExpiryStage.LAPSED:
            return f"Certificate expired {moment(ends, now)}; {closed or 'renew it, or connect the service again'}"
        case ExpiryStage.LATE:
            to_do = closed or "Retried every hour; renew it here to see the error"
            return f"Certificate not renewed; expires {moment(ends, now)}. {to_do}"
        case ExpiryStage.DUE | ExpiryStage.FRESH:
            return f"Certificate valid until {moment(ends, now)}"


def _protects(usage: Sequence[UsageTotalRow], kept: int, programs: int) -> str:
    used = {row.operation for row in usage if row.count > row.refused}
    parts = ["fields encrypted by its programs"] if programs else []
    parts += [words for operations, words in _USES if used & operations]
    if kept:
        parts.append(f"data encrypted with its {count(kept, 'KMIP object')}")
    if not parts:
        return "No use of its key in the last 24 hours"
    return f"Protects {listed(parts)}"


_PROBLEMS: Mapping[str, str] = MappingProxyType(
    {
        AgentProblem.CERTIFICATE_LAPSED: "certificate expired",
        AgentProblem.CERTIFICATE_REVOKED: "certificate revoked",
        AgentProblem.PROOF_REFUSED: "attestation rejected; create a new join token",
        AgentProblem.AUTHORITY_REFUSED: "server certificate not trusted",
        AgentProblem.FOLDER_UNUSABLE: "folder not writable; check disk space and permissions",
        AgentProblem.NOT_RENEWED: "certificate not renewed",
        AgentProblem.RELOAD_FAILED: "service not reloaded after renewal",
        AgentProblem.CLOCK_WRONG: "system clock wrong",
    }
)


def agent_status(agents: Sequence[HeartbeatRow], now: datetime) -> str:
    """Return the status of a service's agents, newest contact first; empty without a heartbeat."""
    if not agents:
        return ""
    connected = [one for one in agents if is_connected(one.last_contact_at, now)]
    newest = agents[0]
    if not connected:
        ends = moment(newest.certificate_not_after, now)
        return (
            f"Agent not connected: last contact {moment(newest.last_contact_at, now)}; "
            f"its last certificate expires {ends}"
        )
    versions = listed([code(one) for one in sorted({one.agent_version for one in connected})])
    who = "Agent connected" if len(connected) == 1 else f"{count(len(connected), 'agent')} connected"
    until = moment(min(one.certificate_not_after for one in connected), now)
    heard = moment(newest.last_contact_at, now)
    words = f"{who} (version {versions}), last contact {heard}, certificate valid until {until}"
    # Most severe problem first.
    found = {one.problem for one in connected}
    problems = [words for problem, words in _PROBLEMS.items() if problem in found]
    return words + (f". Problem: {listed(problems)}" if problems else "")


@dataclass(frozen=True, slots=True)
class Found:
    """One discovered service as text."""

    service: str
    kind: ServiceKind
    words: str


def found(discovered: Sequence[DiscoveryRow], services: Sequence[ServiceRow], now: datetime) -> tuple[Found, ...]:
    """Return the discovered services that are neither connected nor connecting."""
    there = {service.service for service in services if service.state is not ServiceState.DISCONNECTED}
    return tuple(
        Found(
            row.service,
            row.kind,
            f"{KIND_NAMES[row.kind]}, discovered {moment(row.discovered_at, now)}; not encrypted with OpenKCM",
        )
        for row in discovered
        if row.service not in there
    )
