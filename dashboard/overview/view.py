"""The texts of the page Overview: live metrics, what needs attention, key management; each from measured facts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.services import ServiceState
from core.tenants.approvals import Approval, is_over
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS
from core.tenants.status import CoverageFacts, Facts, Status, Subject, Verdict
from core.usage import together
from dashboard.approvals.view import WORDS, who
from dashboard.components.attention import AttentionItem
from dashboard.components.formatting import at, count, plain, short
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import UNDER_WAY, Severity, standing
from dashboard.usage.view import duration
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import HourSum

HOURS = 24
_RECENT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric with its course by hour; `note` explains the value."""

    label: str
    value: str
    note: str
    course: tuple[float, ...] = ()
    summary: str = ""
    """The course in words: lowest, highest and newest hour."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the card: label, state and explanation."""

    label: str
    value: str
    status: Status
    detail: str


def title(tenant: TenantRow) -> str:
    """Return the page's heading."""
    return f"{plain(tenant.organization)} - Encryption Dashboard"


def facts_line(tenant: TenantRow, services: Sequence[ServiceRow], now: datetime) -> str:
    """Return status, region, root key and the number of services in one line."""
    since = tenant.ready_at or tenant.requested_at
    began = "ready since" if tenant.ready_at else "requested"
    number, note = services_using(tenant, services, now)
    return (
        f"Tenant Status: {standing(tenant.state).name}, {began} {at(since)} · Region: {tenant.region} · "
        f"Root key: {mode(tenant.root_key_mode)} · Services Using Encryption: {number} ({note})"
    )


def services_using(tenant: TenantRow, services: Sequence[ServiceRow], now: datetime) -> tuple[str, str]:
    """Return how many services use encryption, and the note to the number: one uses it if seen in the last day."""
    number = sum(service.state is ServiceState.CONNECTED for service in services)
    if not number:
        return "0", "ready for integration" if tenant.state in ENCRYPTS else "none connected"
    recent = sum(
        service.state is ServiceState.CONNECTED
        and service.last_seen_at is not None
        and now - service.last_seen_at < _RECENT
        for service in services
    )
    return f"{recent:,} of {number:,}", "connected services seen in the last 24 hours"


def first_hour(now: datetime) -> datetime:
    """Return the first hour of the courses."""
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)


def metrics(course: Sequence[HourSum], coverage: CoverageFacts | None, now: datetime) -> tuple[Metric, ...]:
    """Return the four metrics of the last 24 hours; hours without uses count as zero."""
    by_hour = {one.hour: one for one in course}
    hours = [by_hour.get(first_hour(now) + timedelta(hours=number)) for number in range(HOURS)]
    requests = tuple(0.0 if one is None else float(one.answered + one.refused) for one in hours)
    refused = tuple(0.0 if one is None else float(one.refused) for one in hours)
    p95 = tuple(value for one in hours if one is not None and (value := one.latency.within(95)) is not None)
    total, rejected = int(sum(requests)), int(sum(refused))
    latency = together([one.latency for one in course])
    return (
        Metric(
            f"Requests, {HOURS} h",
            short(total),
            "" if short(total) == f"{total:,}" else f"{total:,}",
            requests,
            _summary("Requests", requests, _number),
        ),
        Metric(
            f"Rejected, {HOURS} h",
            short(rejected),
            _share(rejected, total),
            refused,
            _summary("Rejected requests", refused, _number),
        ),
        Metric(
            "p95 latency (upper bound)",
            duration(latency.within(95)),
            f"last {HOURS} h",
            p95,
            _summary("p95 latency", p95, duration),
        ),
        _coverage(coverage),
    )


def _summary(name: str, course: Sequence[float], words: Callable[[float], str]) -> str:
    if not course:
        return ""
    return f"{name} by hour: lowest {words(min(course))}, highest {words(max(course))}, newest {words(course[-1])}"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _share(part: int, whole: int) -> str:
    if not whole:
        return "no requests"
    return "0 %" if not part else f"{max(100 * part / whole, 0.01):.2f} %"


def _coverage(coverage: CoverageFacts | None) -> Metric:
    label = "Encryption coverage"
    if coverage is None or not coverage.services:
        return Metric(label, "0", "services, ready for integration")
    return Metric(label, f"{coverage.protected:,} of {coverage.services:,}", "services protected")


def attention(
    facts: Facts, waiting: Iterable[Approval], coverage: CoverageFacts | None, services: Iterable[AttentionItem]
) -> tuple[AttentionItem, ...]:
    """Return what needs attention, the most urgent first; `services` are the items of the page Services."""
    items = list(services)
    items += [
        AttentionItem(
            "Approval",
            f"{who(one.requested_by, one.requested_name)} requests: {WORDS[one.action].title}",
            "approvals",
            Severity.WARNING,
            opens=f"approvals: {WORDS[one.action].title}",
        )
        for one in waiting
        if not is_over(one, facts.measured_at)
    ]
    if coverage is not None and coverage.services and not coverage.is_complete:
        items.append(AttentionItem("Coverage", _gaps(coverage), "services", Severity.WARNING))
    order = [Severity.BAD, Severity.WARNING, Severity.WORKING, Severity.GOOD]
    return tuple(sorted(items, key=lambda one: order.index(one.severity)))


def _gaps(coverage: CoverageFacts) -> str:
    """Return what is incomplete; a service without listed fields has no known gap."""
    gaps = coverage.services - coverage.protected - coverage.unlisted
    parts = [f"{count(gaps, 'service has', 'services have')} gaps"] if gaps else []
    if coverage.unlisted:
        parts.append(f"{count(coverage.unlisted, 'service has', 'services have')} no listed fields")
    return " and ".join(parts) or "encryption is rejected in the tenant's state"


def key_management(tenant: TenantRow, found: Verdict) -> tuple[Line, ...]:
    """Return root key, tenant isolation and service integration, each with its measured status."""
    root, isolation = found.of(Subject.ROOT_KEY), found.of(Subject.ISOLATION)
    return (
        Line("Root key", mode(tenant.root_key_mode), root.status, root.detail or f"{root.words}."),
        Line("Tenant isolation", _isolation(isolation.status), isolation.status, f"{isolation.words}."),
        _integration(tenant, found),
    )


def _isolation(status: Status) -> str:
    return {Status.OPERATIONAL: "Active ✓", Status.STOPPED: "Check failed"}.get(status, "Not confirmed")


def _integration(tenant: TenantRow, found: Verdict) -> Line:
    label = "Service integration"
    if tenant.state in UNDER_WAY:
        return Line(label, "Not ready", Status.UNKNOWN, "Services can connect once the tenant is active.")
    if tenant.state not in DECRYPTS:
        return Line(label, "Blocked", Status.STOPPED, "Key requests are rejected while the tenant is in this state.")
    served = [found.of(one) for one in (Subject.KEY_SERVER, Subject.ROOT_KEY, Subject.CRYPTO_SERVICE, Subject.REQUESTS)]
    for status, value in (
        (Status.STOPPED, "Impaired"),
        (Status.DEGRADED, "Impaired"),
        (Status.UNKNOWN, "Not measured"),
    ):
        for one in served:
            if one.status is status:
                return Line(label, value, status, one.detail or f"{one.words}.")
    if tenant.state not in ENCRYPTS:
        return Line(
            label,
            "Read only",
            Status.DEGRADED,
            "Services can decrypt. New data cannot be encrypted and no service can be connected.",
        )
    return Line(label, "Ready ✓", Status.OPERATIONAL, "Services can connect and request keys.")
