"""Texts of the Usage page: totals, series, operations, and the meaning of refusals for the customer."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

from core.services import KEY_REQUESTS, CryptoOperation
from core.usage import BOUNDS, Latency, together
from dashboard.usage.periods import Period
from database.usage import DayCount, UsageSum

_MOST_SERIES = 7
"""Larger numbers of colours and patterns cannot be distinguished; further series are merged."""
OTHERS = "Other"
_UNITS = (("s", 1_000_000), ("ms", 1000))


@dataclass(frozen=True, slots=True)
class Headlines:
    """Values and notes of the four metrics."""

    requests: str
    per_day: str
    this_month: str
    denied: str
    denied_share: str
    p95: str
    p95_note: str


@dataclass(frozen=True, slots=True)
class Series:
    """A stacked chart: for each time of the axis the counts of every name, largest name first."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]

    def source(self) -> list[list[str | int]]:
        """Return the series as a table with its header, for the chart and the table view."""
        header: list[str | int] = ["Day", *self.names]
        rows: list[list[str | int]] = [[label, *counts] for label, counts in self.rows]
        return [header, *rows]

    def summary(self) -> str:
        """Return the content of the chart as one sentence."""
        totals = {label: sum(counts) for label, counts in self.rows}
        everything = sum(totals.values())
        if not everything:
            return "No key requests in this period."
        busiest = max(totals, key=lambda label: totals[label])
        return (
            f"{everything:,} key requests over {len(self.rows):,} bars, most on {busiest} with {totals[busiest]:,}; "
            f"the largest part is {self.names[0]}."
        )


@dataclass(frozen=True, slots=True)
class Line:
    """One service and operation. Latencies are of successful requests, as text."""

    service: str
    operation: str
    kind: str
    requests: int
    refused: int
    average: str
    p50: str
    p95: str
    p99: str


@dataclass(frozen=True, slots=True)
class Refusal:
    service: str
    operation: str
    reason: str
    count: int
    meaning: str
    denied: bool


def headlines(totals: Sequence[UsageSum], period: Period, month: Sequence[DayCount]) -> Headlines:
    """Return the four metrics; `month` are the key requests of this month so far."""
    requests = sum(one.count for one in totals if one.operation in KEY_REQUESTS)
    everything = sum(one.count for one in totals)
    denied = sum(one.count for one in totals if one.refusal and reason(one.refusal).denied)
    latency = _of_key_requests(totals)
    return Headlines(
        requests=f"{requests:,}",
        per_day=f"{_rounded(requests / period.days)} a day" if period.days > 1 else "so far today (UTC)",
        this_month=f"{sum(one.count for one in month):,}",
        denied=f"{denied:,}",
        denied_share=f"{_share(denied, everything)} of all",
        p95=duration(latency.within(95)),
        p95_note=f"average {duration(latency.average())}" if latency.timed else "no measurements in this period",
    )


def by_day(counts: Sequence[DayCount], period: Period, name: Callable[[str], str]) -> Series:
    """Return each day of the period, including days without use."""
    return _series(counts, period, name, lambda day: day.isoformat())


def by_month(counts: Sequence[DayCount], period: Period, name: Callable[[str], str]) -> Series:
    """Return each month of the period, with its days in the period."""
    return _series(counts, period, name, lambda day: f"{day:%Y-%m}")


def service_name(name: str) -> str:
    """Return the name of a service on the page."""
    return name or NO_SERVICE


def operation_name(value: str) -> str:
    """Return the name of an operation on the page."""
    return operation(CryptoOperation(value))


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


def refusals(totals: Sequence[UsageSum]) -> Sequence[Refusal]:
    """Return refused and failed requests, denied ones first, the most frequent first."""
    found = []
    for one in totals:
        if one.refusal:
            why = reason(one.refusal)
            service = service_name(one.service)
            found.append(Refusal(service, operation(one.operation), why.name, one.count, why.meaning, why.denied))
    return sorted(found, key=lambda refusal: (not refusal.denied, -refusal.count, refusal.service, refusal.operation))


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
        duration(latency.average()),
        *(duration(latency.within(percent)) for percent in (50, 95, 99)),
    )


def _of_key_requests(totals: Sequence[UsageSum]) -> Latency:
    return together([one.latency for one in totals if one.operation in KEY_REQUESTS and not one.refusal])


def _series(
    counts: Sequence[DayCount], period: Period, name: Callable[[str], str], label: Callable[[date], str]
) -> Series:
    sizes: Counter[str] = Counter()
    for one in counts:
        sizes[name(one.part)] += one.count
    largest = sorted(sizes, key=lambda one: (-sizes[one], one))
    shown = largest if len(largest) <= _MOST_SERIES + 1 else [*largest[:_MOST_SERIES], OTHERS]
    place = {one: min(number, len(shown) - 1) for number, one in enumerate(largest)}
    rows = {label(day): [0] * len(shown) for day in period.all_days()}
    for one in counts:
        rows[label(one.day)][place[name(one.part)]] += one.count
    return Series(tuple(shown), tuple((when, tuple(numbers)) for when, numbers in rows.items()))


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:,.1f}"


def _share(part: int, whole: int) -> str:
    if not part:
        return "0 %"
    percent = 100 * part / whole
    return "under 0.01 %" if percent < 0.01 else f"{percent:.2f} %"


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
    return "Key request" if one in KEY_REQUESTS else "Other request"


def reason(code: str) -> Reason:
    """Return name and meaning of a refusal; an unknown code is a denial under its own name."""
    return _REASONS.get(code) or Reason(code.replace("_", " ").capitalize(), "The audit stream has the details.")
