"""Texts of the page Services: one row for each service with its status, and what needs attention.

All texts derive from stored data. Except for the time of the last contact, agent data is reported by the agent. A
service that cannot renew its certificate without an agent has a date on which it stops.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from types import MappingProxyType

from compliance.coverage.assessment import PLAIN, FullyCovered, ServiceCoverage, Unknown
from core.certificates import ExpiryStage, stage
from core.services import RENEWED, CryptoOperation, ServiceState
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS
from dashboard.components.attention import AttentionItem
from dashboard.components.formatting import KIND_NAMES, code, count, listed, moment
from dashboard.components.tenant_status import Severity
from database.services.agents import HeartbeatRow, ProtectionUseRow
from database.services.enrolment import DiscoveryRow
from database.services.managed_objects import ObjectCountRow
from database.services.repository import HeldCertificateRow, ServiceRow
from database.tenants import TenantRow
from database.usage import UsageTotalRow
from openkcm.contract.services import AgentProblem, ServiceKind, is_connected

_SHOWN = 500
_DESTROYED = frozenset({5, 6})
_SUBJECT, _PATH = "Certificate", "services"

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


class Status(StrEnum):
    """States of a service; the filter of the table has their names."""

    STOPPED = "stopped"
    BLOCKED = "blocked"
    STOPS = "no-agent"
    EXPIRES = "expires-soon"
    CONNECTED = "connected"
    CONNECTING = "connecting"
    DISCOVERED = "discovered"
    DISCONNECTED = "disconnected"


STATUS_NAMES: Mapping[Status, str] = MappingProxyType(
    {
        Status.STOPPED: "Stopped",
        Status.BLOCKED: "Blocked",
        Status.STOPS: "No agent",
        Status.EXPIRES: "Expires soon",
        Status.CONNECTED: "Connected",
        Status.CONNECTING: "Connecting",
        Status.DISCOVERED: "Discovered",
        Status.DISCONNECTED: "Disconnected",
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Stored data: usage of the last 24 hours and of the last minutes, objects by state."""

    tenant: TenantRow
    services: Sequence[ServiceRow]
    usage: Sequence[UsageTotalRow]
    objects: Sequence[ObjectCountRow]
    agents: Sequence[HeartbeatRow] = ()
    discovered: Sequence[DiscoveryRow] = ()
    programs: Mapping[str, int] = field(default_factory=dict)
    """Result of `per_day`: operations of the service's programs."""
    held: Mapping[str, HeldCertificateRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    status: Status
    words: str
    severity: Severity
    stops_at: datetime | None = None
    """When it stops without an action; None if its certificate is renewed automatically."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of the table; times are UTC, and None where nothing is known."""

    service: str
    kind: str
    status: str
    seen: datetime | None
    requests: int
    refused: int
    until: datetime | None
    agent: str
    coverage: str
    protects: str


@dataclass(frozen=True, slots=True)
class Filter:
    """A part of the name, kinds and statuses; an empty one matches all."""

    wanted: str = ""
    kinds: tuple[ServiceKind, ...] = ()
    statuses: tuple[Status, ...] = ()


NO_FILTER = Filter()


@dataclass(frozen=True, slots=True)
class Table:
    rows: tuple[TableRow, ...]
    total: int
    more: int
    """Number of matching services that are not in `rows`."""


@dataclass(frozen=True, slots=True)
class Details:
    """The selected service. Only a `connected` service can be renewed or disconnected; a `known` one has a row."""

    service: str
    kind: ServiceKind
    lines: tuple[str, ...]
    connected: bool
    known: bool


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


def summary(facts: Facts, now: datetime) -> str:
    """Return how many services are connected and how many need attention; the status strip says what was measured."""
    connected = sum(one.state is ServiceState.CONNECTED for one in facts.services)
    words = f"{count(connected, 'service')} connected." if connected else "No service is connected."
    if waiting := len(_waiting(facts, now)):
        words += f" {waiting:,} {'needs' if waiting == 1 else 'need'} attention."
    return words


def attention(facts: Facts, now: datetime) -> tuple[AttentionItem, ...]:
    """Return the connected services that have stopped or will stop, those that stop first at the top.

    More services with the same status than a reader compares are one item, which opens them in the table.
    """
    waiting = _waiting(facts, now)
    number = Counter(status.status for _, status in waiting)
    items: list[AttentionItem] = []
    summed: set[Status] = set()
    for service, status in waiting:
        if number[status.status] <= _LISTED:
            items.append(_item(service, status))
        elif status.status not in summed:
            summed.add(status.status)
            items.append(_item_of_several(number[status.status], status))
    return tuple(items)


def _item(service: str, status: ServiceStatus) -> AttentionItem:
    words = _ATTENTION[status.status].format(_stop(status))
    return AttentionItem(_SUBJECT, words, _PATH, status.severity, service, query=MappingProxyType({"service": service}))


def _item_of_several(number: int, first: ServiceStatus) -> AttentionItem:
    name = STATUS_NAMES[first.status]
    return AttentionItem(
        _SUBJECT,
        _SEVERAL[first.status].format(number, _stop(first)),
        _PATH,
        first.severity,
        opens=f"services: {name.lower()}",
        query=MappingProxyType({"status": name}),
    )


def _stop(status: ServiceStatus) -> str:
    return _at(status.stops_at, ", ") if status.stops_at else "an unknown date"


def _waiting(facts: Facts, now: datetime) -> list[tuple[str, ServiceStatus]]:
    """Return the connected services that have stopped or will stop, those that stop first at the top."""
    agents, found = _by_service(facts.agents), []
    for service in facts.services:
        if service.state is ServiceState.CONNECTED:
            status = _certificate_status(service, facts, agents.get(service.service, ()), now)
            if status is not None:
                found.append((service.service, status))
    return sorted(found, key=lambda one: (one[1].stops_at or datetime.min.replace(tzinfo=UTC), one[0]))


_LISTED = 3
_ATTENTION: Mapping[Status, str] = MappingProxyType(
    {
        Status.STOPPED: "has stopped: its certificate expired on {}",
        Status.STOPS: "has no agent: it stops on {}",
        Status.EXPIRES: "was not renewed: it stops on {}",
    }
)
_SEVERAL: Mapping[Status, str] = MappingProxyType(
    {
        Status.STOPPED: "{} services have stopped: the first certificate expired on {}",
        Status.STOPS: "{} services have no agent: the first stops on {}",
        Status.EXPIRES: "{} services were not renewed: the first stops on {}",
    }
)


def table(facts: Facts, covered: Mapping[str, ServiceCoverage], now: datetime, chosen: Filter = NO_FILTER) -> Table:
    """Return the services by name, filtered by a part of the name, kinds and statuses, and limited."""
    index, part = _Index(facts), chosen.wanted.strip().lower()
    matching: list[TableRow] = []
    known = {service.service for service in facts.services if service.state is not ServiceState.DISCONNECTED}
    waiting = [row for row in facts.discovered if row.service not in known]
    hidden = {row.service for row in waiting}
    rows: list[ServiceRow | DiscoveryRow] = [row for row in facts.services if row.service not in hidden]
    for row in sorted([*rows, *waiting], key=lambda one: one.service):
        if part not in row.service or (chosen.kinds and row.kind not in chosen.kinds):
            continue
        status = _status_of(row, index, now)
        if not chosen.statuses or status.status in chosen.statuses:
            matching.append(_table_row(row, status, index, covered.get(row.service), now))
    return Table(tuple(matching[:_SHOWN]), len(rows) + len(waiting), max(len(matching) - _SHOWN, 0))


def details(facts: Facts, service: str, now: datetime) -> Details | None:
    """Return the details of a service; None if the tenant has no such service."""
    row = next((one for one in facts.services if one.service == service), None)
    waiting = next((one for one in facts.discovered if one.service == service), None)
    if row is None or (row.state is ServiceState.DISCONNECTED and waiting is not None):
        if waiting is None:
            return None
        words = f"{KIND_NAMES[waiting.kind]}, discovered {moment(waiting.discovered_at, now)}"
        return Details(
            service,
            waiting.kind,
            (f"{words}; not encrypted with OpenKCM",),
            connected=False,
            known=row is not None,
        )
    index = _Index(facts)
    agents = index.agents.get(service, ())
    lines = (
        f"{KIND_NAMES[row.kind]}: {_since(row, now)}",
        _certificate(row, facts, agents, now),
        f"Last seen {moment(row.last_seen_at, now)}" if row.last_seen_at else "Never seen",
        agent_status(agents, now) or _without_agent(row.kind),
        _protects(index, service) or "No use of its key in the last 24 hours",
    )
    return Details(service, row.kind, lines, connected=row.state is ServiceState.CONNECTED, known=True)


class _Index:
    """The facts by service, so that a row costs the same with thousands of them."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.agents = facts, _by_service(facts.agents)
        self.usage: defaultdict[str, list[UsageTotalRow]] = defaultdict(list)
        for use in facts.usage:
            self.usage[use.service].append(use)
        self.kept: Counter[str] = Counter()
        for objects in facts.objects:
            if objects.state not in _DESTROYED:
                self.kept[objects.service] += objects.count


def _by_service(agents: Sequence[HeartbeatRow]) -> Mapping[str, list[HeartbeatRow]]:
    found: defaultdict[str, list[HeartbeatRow]] = defaultdict(list)
    for one in agents:
        found[one.service].append(one)
    return found


def _status_of(row: ServiceRow | DiscoveryRow, index: _Index, now: datetime) -> ServiceStatus:
    if isinstance(row, DiscoveryRow):
        return ServiceStatus(Status.DISCOVERED, "Discovered: not connected", Severity.WARNING)
    match row.state:
        case ServiceState.CONNECTING:
            return ServiceStatus(Status.CONNECTING, "Connecting", Severity.WORKING)
        case ServiceState.DISCONNECTED:
            return ServiceStatus(Status.DISCONNECTED, "Disconnected", Severity.WORKING)
        case ServiceState.CONNECTED:  # pragma: no branch - mypy checks that every case is named
            status = _certificate_status(row, index.facts, index.agents.get(row.service, ()), now)
            if index.facts.tenant.state not in DECRYPTS and (status is None or status.status is not Status.STOPPED):
                return ServiceStatus(Status.BLOCKED, f"Blocked: tenant {index.facts.tenant.state}", Severity.BAD)
            return status or ServiceStatus(Status.CONNECTED, "Connected", Severity.GOOD)


def _certificate_status(
    row: ServiceRow, facts: Facts, agents: Sequence[HeartbeatRow], now: datetime
) -> ServiceStatus | None:
    """Return the status of a connected service whose certificate expires without an action; None for all others."""
    begins, ends = row.certificate_not_before, row.certificate_not_after
    if begins is None or ends is None:
        return ServiceStatus(Status.STOPPED, "Stopped: no valid certificate", Severity.BAD)
    held = facts.held.get(row.service)
    stops, by_hand = _stops_at(row, held, agents, now), held is not None and held.by_hand
    last = stops or ends
    if last <= now:
        return ServiceStatus(Status.STOPPED, "Stopped: certificate expired", Severity.BAD, last)
    if stops is not None and not by_hand:
        return ServiceStatus(Status.STOPS, f"No agent: stops {_at(stops)}", Severity.WARNING, stops)
    if stage(begins, ends, now) is ExpiryStage.LATE:
        return ServiceStatus(Status.EXPIRES, f"Expires soon: {_at(last)}", Severity.WARNING, last)
    return None


def _stops_at(
    row: ServiceRow, held: HeldCertificateRow | None, agents: Sequence[HeartbeatRow], now: datetime
) -> datetime | None:
    """Return when the certificate on the service's machine expires, if nothing there fetches the next one.

    The client library of a microservice fetches it. A database does not: neither its server nor its drivers. Without
    a connected agent the platform's renewals do not reach it, so its date is that of the certificate it has: as its
    last agent reported, or else of the oldest that can still be in use.
    """
    if held is not None and held.by_hand:
        return held.until
    if row.kind is ServiceKind.MICROSERVICE or any(is_connected(one.last_contact_at, now) for one in agents):
        return None
    if agents:
        return agents[0].certificate_not_after
    return held.until if held is not None else row.certificate_not_after


def _table_row(
    row: ServiceRow | DiscoveryRow,
    status: ServiceStatus,
    index: _Index,
    covered: ServiceCoverage | None,
    now: datetime,
) -> TableRow:
    name = row.service
    usage, agents = index.usage.get(name, ()), index.agents.get(name, ())
    refused = sum(use.refused for use in usage)
    service = row if isinstance(row, ServiceRow) else None
    return TableRow(
        service=name,
        kind=KIND_NAMES[row.kind],
        status=status.words,
        seen=None if service is None else service.last_seen_at,
        requests=sum(use.count for use in usage) + index.facts.programs.get(name, 0),
        refused=refused,
        until=status.stops_at or (None if service is None else service.certificate_not_after),
        agent=_agent_word(row.kind, agents, now),
        coverage=_coverage(covered),
        protects=_protects(index, name),
    )


def _agent_word(kind: ServiceKind, agents: Sequence[HeartbeatRow], now: datetime) -> str:
    if any(is_connected(one.last_contact_at, now) for one in agents):
        return "Connected"
    if agents:
        return "Not connected"
    return "Not needed" if kind is ServiceKind.MICROSERVICE else "None"


def _coverage(covered: ServiceCoverage | None) -> str:
    if covered is None:
        return ""
    match covered.verdict:
        case FullyCovered():
            return "Protected"
        case Unknown():
            return "Unknown: no fields listed"
        case incomplete:
            return count(len(incomplete.gaps), "gap")


def _since(row: ServiceRow, now: datetime) -> str:
    match row.state:
        case ServiceState.CONNECTED:
            return f"connected since {moment(row.connected_at, now, 'just now')}"
        case ServiceState.CONNECTING:
            return "connecting, key and certificate are being created"
        case ServiceState.DISCONNECTED:  # pragma: no branch - mypy checks that every case is named
            return f"disconnected {moment(row.disconnected_at, now, 'earlier')}; certificates revoked, key kept"


def _certificate(row: ServiceRow, facts: Facts, agents: Sequence[HeartbeatRow], now: datetime) -> str:
    begins, ends = row.certificate_not_before, row.certificate_not_after
    if begins is None or ends is None or row.state is not ServiceState.CONNECTED:
        return "No valid certificate"
    status, closed = _certificate_status(row, facts, agents, now), why_no_renewal(facts.tenant)
    if status is None:
        return f"Certificate valid until {moment(ends, now)}"
    when = moment(status.stops_at, now, "at an unknown time")
    match status.status:
        case Status.STOPPED:
            return f"Certificate expired {when}; {closed or 'renew it and install it, or run the agent'}"
        case Status.STOPS:
            return f"No agent: the service stops {when}. {closed or f'{renewal(row.kind)} Run the agent: see Guide.'}"
        case _ if (held := facts.held.get(row.service)) is not None and held.by_hand:
            return f"Certificate expires {when}. {closed or 'Renew it and install it on the appliance.'}"
        case _:
            return f"Certificate not renewed; expires {when}. {closed or 'Renew it here to see the error.'}"


def renewal(kind: ServiceKind) -> str:
    """Return who renews the certificate of a service of a kind on its machine, in one sentence."""
    match kind:
        case ServiceKind.MONGODB:
            return "Neither mongod nor the drivers fetch a renewed certificate."
        case ServiceKind.POSTGRESQL:
            return "PostgreSQL does not fetch a renewed certificate."
        case ServiceKind.MICROSERVICE:  # pragma: no branch - mypy checks that every case is named
            return "The client library fetches each renewed certificate."


def _without_agent(kind: ServiceKind) -> str:
    return "No agent; the client library renews the certificate" if kind is ServiceKind.MICROSERVICE else "No agent"


def _protects(index: _Index, service: str) -> str:
    used = {row.operation for row in index.usage.get(service, ()) if row.count > row.refused}
    parts = ["fields encrypted by its programs"] if index.facts.programs.get(service) else []
    parts += [words for operations, words in _USES if used & operations]
    if kept := index.kept[service]:
        parts.append(f"data encrypted with its {count(kept, 'KMIP object')}")
    return f"Protects {listed(parts)}" if parts else ""


def _at(time: datetime, comma: str = " ") -> str:
    """Return a time without its year, which a certificate's end does not need: `30 Nov 17:08 UTC`."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%b}{comma}{utc:%H:%M} UTC"


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
