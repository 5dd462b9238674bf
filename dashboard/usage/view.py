"""Texts of the Usage page: totals, courses, operations, and the meaning of refusals for the customer."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from functools import cache
from types import MappingProxyType

from core.services import KEY_REQUESTS, CryptoOperation
from core.usage import BOUNDS, Latency, together
from dashboard.audit.address import minute
from dashboard.components.formatting import short
from dashboard.usage.periods import Interval, Period
from database.usage import SpanSum, UsageCount, UsageLatency, UsageSum

_MOST_SERIES = 7
"""Larger numbers of colours and patterns cannot be distinguished; further series are merged."""
OTHERS = "Other"
_UNITS = (("s", 1_000_000), ("ms", 1000))
_BEYOND = BOUNDS[-1] / 1000
"""The value of a latency in the last bucket, which has no upper end; in milliseconds."""
_TIME, _DAY = "%Y-%m-%d %H:%M", "%Y-%m-%d"
_SHIPPED = timedelta(minutes=1)
"""Within it an audit record follows its request; its time is that of the record."""


@dataclass(frozen=True, slots=True)
class HeadlineFacts:
    """What the metrics need beside the counts.

    The complete days of the period are those after the tenant's first day with use and before today;
    `on_complete_days` has their key requests, and `this_month` those of the month so far.
    """

    period: Period
    today: date
    complete_days: int
    on_complete_days: int
    this_month: int


@dataclass(frozen=True, slots=True)
class Headlines:
    """Values and notes of the four metrics."""

    requests: str
    per_day: str
    this_month: str
    this_month_note: str
    refused: str
    refused_note: str
    p95: str
    p95_note: str


@dataclass(frozen=True, slots=True)
class Series:
    """A stacked chart: for each interval the counts of every name, largest name first. `noun` is what is counted."""

    noun: str
    interval: Interval
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]

    def source(self) -> list[list[str | int]]:
        """Return the series as a table with its header, for the chart and the table view."""
        header: list[str | int] = [f"{self.interval} (UTC)", *self.names]
        rows: list[list[str | int]] = [[label, *counts] for label, counts in self.rows]
        return [header, *rows]

    @property
    def total(self) -> int:
        """The sum of all bars."""
        return sum(sum(counts) for _, counts in self.rows)

    def summary(self) -> str:
        """Return the content of the chart as one sentence."""
        totals = {label: sum(counts) for label, counts in self.rows}
        if not self.total:
            return f"No {self.noun} in this period."
        busiest = max(totals, key=lambda label: totals[label])
        bars = "1 bar" if len(self.rows) == 1 else f"{len(self.rows):,} bars"
        return (
            f"{self.total:,} {self.noun} over {bars}, most on {busiest} with {totals[busiest]:,}; "
            f"the largest part is {self.names[0]}."
        )


@dataclass(frozen=True, slots=True)
class LatencyCourse:
    """For each interval the p95 latency in milliseconds, None where nothing was measured, and how many were."""

    interval: Interval
    rows: tuple[tuple[str, float | None, int], ...]

    def summary(self) -> str:
        """Return the content of the chart as one sentence."""
        measured = [(p95, label) for label, p95, _ in self.rows if p95 is not None]
        if not measured:
            return "No latency was measured in this period."
        highest, when = max(measured)
        return (
            f"p95 latency was measured in {len(measured):,} of {len(self.rows):,} intervals; its highest upper bound "
            f"is {duration(highest * 1000)} on {when}. Intervals without a measurement have no value."
        )

    @property
    def is_beyond(self) -> bool:
        """Whether a value is beyond the largest bucket."""
        return any(p95 == _BEYOND for _, p95, _ in self.rows)


@dataclass(frozen=True, slots=True)
class Line:
    """One service and operation. Latencies are of successful requests, in milliseconds; None without a measurement."""

    service: str
    operation: str
    kind: str
    requests: int
    refused: int
    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @property
    def is_beyond(self) -> bool:
        """Whether a value is beyond the largest bucket."""
        return _BEYOND in (self.p50, self.p95, self.p99)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refused or failed requests of one service and operation with one cause; `query` finds them on the page Audit."""

    service: str
    operation: str
    reason: str
    count: int
    meaning: str
    denied: bool
    first: str
    last: str
    query: dict[str, str]


def headlines(totals: Sequence[UsageSum], counts: Sequence[UsageCount], facts: HeadlineFacts) -> Headlines:
    """Return the four metrics; `counts` are the key requests of the period."""
    everything = sum(one.count for one in totals)
    refused = sum(one.count for one in totals if one.refusal)
    denied = sum(one.count for one in totals if one.refusal and reason(one.refusal).denied)
    latency = _of_key_requests(totals)
    return Headlines(
        requests=short(sum(one.count for one in counts)),
        per_day=_per_day(facts),
        this_month=short(facts.this_month),
        this_month_note=f"{facts.this_month:,} since the 1st, UTC",
        refused=short(refused),
        refused_note=f"{denied:,} denied, {refused - denied:,} failed: {_share(refused, everything)} of all requests",
        p95=duration(latency.within(95)),
        p95_note=f"average {duration(latency.average())}" if latency.timed else "no measurements in this period",
    )


def _per_day(facts: HeadlineFacts) -> str:
    """Return the average of the complete days, or what the number of a period in hours covers."""
    period = facts.period
    if period.is_hourly:
        if period.first != period.last:
            return "in 24 hours, with the current one"
        return "today since 00:00 UTC" if period.last == facts.today else "in this UTC day"
    if not facts.complete_days:
        return "no complete UTC day yet"
    return f"average {_rounded(facts.on_complete_days / facts.complete_days)} per complete UTC day"


def course(
    counts: Sequence[UsageCount], period: Period, interval: Interval, name: Callable[[str], str], noun: str
) -> Series:
    """Return the counts of each interval of the period, including intervals without use."""
    sizes: Counter[str] = Counter()
    for one in counts:
        sizes[name(one.part)] += one.count
    largest = sorted(sizes, key=lambda one: (-sizes[one], one))
    shown = largest if len(largest) <= _MOST_SERIES + 1 else [*largest[:_MOST_SERIES], OTHERS]
    place = {one: min(number, len(shown) - 1) for number, one in enumerate(largest)}
    rows = {label: [0] * len(shown) for label in period.labels(interval)}
    label_of = cache(interval.label)  # a year of fifty services has 18,000 counts of 365 days
    for one in counts:
        rows[label_of(one.begins)][place[name(one.part)]] += one.count
    return Series(noun, interval, tuple(shown), tuple((when, tuple(numbers)) for when, numbers in rows.items()))


def latency_course(latencies: Sequence[UsageLatency], period: Period, interval: Interval) -> LatencyCourse:
    """Return the p95 latency of each interval of the period."""
    parts: dict[str, list[Latency]] = {label: [] for label in period.labels(interval)}
    for one in latencies:
        parts[interval.label(one.begins)].append(one.latency)
    found = [(label, together(ones)) for label, ones in parts.items()]
    return LatencyCourse(interval, tuple((label, milliseconds(one.within(95)), one.timed) for label, one in found))


BEYOND = f"{_BEYOND:,.3f} ms is the largest bound: with this value the latency can be longer."


def service_name(name: str) -> str:
    """Return the name of a service on the page."""
    return name or NO_SERVICE


def operation_name(value: str) -> str:
    """Return the name of an operation on the page."""
    return operation(CryptoOperation(value))


def cause_name(code: str) -> str:
    """Return the name of a cause on the page."""
    return reason(code).name


def total(lines: Sequence[Line]) -> str:
    """Return the sum of the lines as text: the same numbers as the metrics."""
    keys = sum(line.requests for line in lines if line.kind == KEY_REQUEST)
    others = sum(line.requests for line in lines) - keys
    refused = sum(line.refused for line in lines)
    return f"Total: {keys:,} key requests and {others:,} other requests, of which {refused:,} refused or failed."


def lines(totals: Sequence[UsageSum]) -> Sequence[Line]:
    """Return one line for each service and operation: by service, the most frequent first."""
    parts: defaultdict[tuple[str, CryptoOperation], list[UsageSum]] = defaultdict(list)
    for one in totals:
        parts[one.service, one.operation].append(one)
    found = [
        _line(service, operated, ones, together([one.latency for one in ones if not one.refusal]))
        for (service, operated), ones in parts.items()
    ]
    return sorted(found, key=lambda line: (line.service, -line.requests, line.operation))


def refusals(sums: Sequence[SpanSum], period: Period) -> Sequence[Refusal]:
    """Return refused and failed requests, denied ones first, the most frequent first."""
    found = [_refusal(one, period) for one in sums if one.used.refusal]
    return sorted(found, key=lambda refusal: (not refusal.denied, -refusal.count, refusal.service, refusal.operation))


def milliseconds(microseconds: float | None) -> float | None:
    """Return milliseconds for a sortable column; the largest bound for a latency beyond it (see `BEYOND`)."""
    return None if microseconds is None else round(min(microseconds, BOUNDS[-1]) / 1000, 3)


def duration(microseconds: float | None) -> str:
    """Return a duration with three digits: `45 µs`, `4.1 ms`, `over 8.39 s`; `not timed` without a measurement."""
    if microseconds is None:
        return "not timed"
    if microseconds > BOUNDS[-1]:
        return f"over {BOUNDS[-1] / 1e6:.3g} s"
    for unit, size in _UNITS:
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{max(round(microseconds), 1)} µs"


def _line(service: str, operated: CryptoOperation, ones: Sequence[UsageSum], latency: Latency) -> Line:
    return Line(
        service_name(service),
        operation(operated),
        kind(operated),
        sum(one.count for one in ones),
        sum(one.count for one in ones if one.refusal),
        milliseconds(latency.average()),
        *(milliseconds(latency.within(percent)) for percent in (50, 95, 99)),
    )


def _refusal(one: SpanSum, period: Period) -> Refusal:
    used, why = one.used, reason(one.used.refusal)
    unit = timedelta(minutes=1) if period.is_hourly else timedelta(days=1)
    query = {
        "service": used.service,
        "operation": used.operation.value,
        "outcome": "refused",
        "from": minute(one.first),
        "to": minute(one.last + unit + _SHIPPED),
    }
    first, last = (f"{time.astimezone(UTC):{_TIME if period.is_hourly else _DAY}}" for time in (one.first, one.last))
    return Refusal(
        service_name(used.service),
        operation(used.operation),
        why.name,
        used.count,
        why.meaning,
        why.denied,
        first,
        last,
        {name: value for name, value in query.items() if value},
    )


def _of_key_requests(totals: Sequence[UsageSum]) -> Latency:
    return together([one.latency for one in totals if one.operation in KEY_REQUESTS and not one.refusal])


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:,.1f}"


def _share(part: int, whole: int) -> str:
    if not part:
        return "0 %"
    percent = 100 * part / whole
    return "under 0.01 %" if percent < 0.01 else f"{percent:.2f} %"


KEY_REQUEST = "Key request"
NO_SERVICE = "no known service"
"""Replaces the name of requests with a certificate of the tenant that belongs to no service."""

OPERATIONS = MappingProxyType(
    {
        CryptoOperation.ENCRYPT: "Encrypt",
        CryptoOperation.DECRYPT: "Decrypt",
        CryptoOperation.REWRAP: "Re-wrap",
        CryptoOperation.DATA_KEY: "Data key",
        CryptoOperation.WRAPPED_DATA_KEY: "Data key, wrapped only",
        CryptoOperation.GET: "KMIP Get",
        CryptoOperation.CREATE: "Create key",
        CryptoOperation.REGISTER: "Register key",
        CryptoOperation.REKEY: "Re-key",
        CryptoOperation.ACTIVATE: "Activate key",
        CryptoOperation.REVOKE: "Revoke key",
        CryptoOperation.DESTROY: "Destroy key",
        CryptoOperation.LOCATE: "Locate key",
        CryptoOperation.ATTRIBUTES: "Read attributes",
        CryptoOperation.CHANGE_ATTRIBUTES: "Change attributes",
        CryptoOperation.MAC: "MAC or signature",
        CryptoOperation.RANDOM: "Random bytes",
        CryptoOperation.CONNECT: "Connect",
        CryptoOperation.OPEN: "Unwrap service key",
    }
)

DEFINITION = (
    "A key request is a request that needs a key: encrypt, decrypt, re-wrap, data keys, KMIP Get, MAC and "
    "signature, and the creation, registration and re-keying of KMIP keys. Each item of a batch counts, and so do "
    "denied requests. Locating keys, reading or changing their attributes, activating, revoking and destroying "
    "them, and random bytes, count as other requests."
)


@dataclass(frozen=True, slots=True)
class Reason:
    """`denied`: the caller was not authorized. Otherwise a server failed."""

    name: str
    meaning: str
    denied: bool = True


def _failed(name: str, meaning: str) -> Reason:
    return Reason(name, meaning, denied=False)


_REASONS = MappingProxyType(
    {
        "client_not_authorized": Reason(
            "Certificate rejected", "The certificate is expired, revoked, unknown, or of a disconnected service."
        ),
        "tenant_not_operational": Reason(
            "Tenant suspended or locked",
            "The tenant state does not allow the request: suspended allows decryption only, locked allows nothing.",
        ),
        "ciphertext_refused": Reason(
            "Ciphertext rejected",
            "The ciphertext was altered, or belongs to another service or resource. Investigate repeated attempts.",
        ),
        "object_not_found": Reason(
            "Key not found",
            "The key does not exist or belongs to another service; the caller cannot distinguish the two.",
        ),
        "key_not_usable": Reason("Key not usable", "The key is not active, or its usage mask does not allow this."),
        "invalid_request": Reason(
            "Invalid request", "A client sent a malformed request, usually because of an error in its code."
        ),
        "invalid_name": Reason(
            "Invalid name", "A client used an invalid name, usually because of an error in its code."
        ),
        "too_many_requests": Reason(
            "Too many requests",
            "The tenant's rate limit was exceeded; clients retry automatically.",
        ),
        "root_key_disabled": _failed(
            "Root key disabled", "The root key is disabled at its provider, so no service key can be unwrapped."
        ),
        "root_key_pending_deletion": _failed(
            "Root key pending deletion",
            "The root key is scheduled for deletion at its provider. Cancel the deletion immediately if it was "
            "not intended.",
        ),
        "root_key_denied": _failed(
            "Root key access denied", "The key holder has withdrawn the platform's permission to use the root key."
        ),
        "root_key_unreachable": _failed("Root key unreachable", "The root key provider did not respond."),
        "root_key_missing": _failed("Root key missing", "The root key does not exist at its provider."),
        "root_key_credentials_refused": _failed(
            "Root key credentials rejected", "The root key provider rejected the platform's credentials."
        ),
        "root_key_mismatch": _failed("Root key replaced", "Another key is stored at the root key reference."),
        "root_key_unsuitable": _failed("Root key unsuitable", "The root key lacks a required property."),
        "root_key_timeout": _failed("Root key too slow", "The root key provider responded too late."),
        "root_key_server_error": _failed("Root key failing", "The root key provider responded with errors."),
        "root_key_clock_skew": _failed(
            "Clocks differ", "The clocks of the root key provider and the platform differ too much."
        ),
        "root_key_throttled": _failed("Root key throttled", "The root key provider limits the request rate."),
        "vault_unavailable": _failed("Key server unavailable", "The platform's key server did not respond."),
        "key_unavailable": _failed("Tenant key unavailable", "The platform's key server could not use the tenant key."),
        "database_unavailable": _failed("Database unavailable", "The platform's database did not respond."),
        "audit_unavailable": _failed(
            "Audit unavailable", "The audit record could not be stored, so the request was rejected."
        ),
        "audit_backlog_exceeded": _failed(
            "Audit backlog", "Too many audit records wait for delivery, so requests are rejected until they are stored."
        ),
        "internal": _failed(
            "Internal error", "An internal error occurred in the crypto service. Operators see it in its log."
        ),
        "not_recorded": Reason("Reason not recorded", "Counted before reasons were recorded."),
    }
)


def operation(one: CryptoOperation) -> str:
    """Return the name of an operation; its code without a name."""
    return OPERATIONS.get(one, one.value)


def kind(one: CryptoOperation) -> str:
    """Return whether it is a key request."""
    return KEY_REQUEST if one in KEY_REQUESTS else "Other request"


def reason(code: str) -> Reason:
    """Return name and meaning of a refusal; an unknown code is a denial under its own name."""
    return _REASONS.get(code) or Reason(code.replace("_", " ").capitalize(), "The audit stream has the details.")
