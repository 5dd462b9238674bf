"""What the Usage page says, from the rows of some days.

What operations and refusals are called on the Usage page, and what a refusal means for the customer.
"""

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
"""Colours and patterns that people tell apart; what is beyond is drawn together."""
OTHERS = "All others"
_UNITS = (("s", 1_000_000), ("ms", 1000))


@dataclass(frozen=True, slots=True)
class Headlines:
    """Texts of the four metrics, and what is said beside each."""

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
        """Return it as a table with its header, for the chart and for reading."""
        header: list[str | int] = ["Day", *self.names]
        rows: list[list[str | int]] = [[label, *counts] for label, counts in self.rows]
        return [header, *rows]

    def summary(self) -> str:
        """Return in one sentence what the chart shows, for whoever does not see it."""
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
    """One service and operation. Latencies are of answered requests, in words."""

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
    """`month` are the key requests of this month so far."""
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
        p95_note=f"average {duration(latency.average())}" if latency.timed else "nothing was timed in this period",
    )


def by_day(counts: Sequence[DayCount], period: Period, name: Callable[[str], str]) -> Series:
    """Return each day of the period, days without use too."""
    return _series(counts, period, name, lambda day: day.isoformat())


def by_month(counts: Sequence[DayCount], period: Period, name: Callable[[str], str]) -> Series:
    """Return each month that has a day in the period, with the days in it alone."""
    return _series(counts, period, name, lambda day: f"{day:%Y-%m}")


def service_name(name: str) -> str:
    """Return what a service is called on the page."""
    return name or NO_SERVICE


def operation_name(value: str) -> str:
    """Return what an operation is called on the page."""
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
    """Return what was not answered, the most frequent first."""
    found = []
    for one in totals:
        if one.refusal:
            why = reason(one.refusal)
            service = service_name(one.service)
            found.append(Refusal(service, operation(one.operation), why.name, one.count, why.meaning, why.denied))
    return sorted(found, key=lambda refusal: (not refusal.denied, -refusal.count, refusal.service, refusal.operation))


def duration(microseconds: float | None) -> str:
    """Return a time as exactly as it is known: `45 µs`, `4.1 ms`, `over 8.39 s`; `not timed` when nothing was timed."""
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


NO_SERVICE = "no service on record"
"""Instead of the name: somebody had a certificate of the tenant that no service has."""

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
        CryptoOperation.CONNECT: "Connect",
        CryptoOperation.OPEN: "Open the service's key",
    }
)

DEFINITION = (
    "A key request is a request whose work needs a key: encrypt, decrypt, re-wrap, data keys, KMIP Get, MAC and "
    "signature, and the creation, registration and re-keying of KMIP keys. Each item of a batch counts, and so do "
    "requests that were denied. Searching keys, reading or changing their attributes, activating, revoking and "
    "destroying them are counted as other requests."
)


@dataclass(frozen=True, slots=True)
class Reason:
    """`denied`: somebody was not let. Otherwise a server did not do its part, and nobody asked for too much."""

    name: str
    meaning: str
    denied: bool = True


def _failed(name: str, meaning: str) -> Reason:
    return Reason(name, meaning, denied=False)


_REASONS = MappingProxyType(
    {
        "caller_refused": Reason(
            "Certificate refused", "The certificate is expired, revoked, not on record, or of a disconnected service."
        ),
        "tenant_closed": Reason(
            "Tenant suspended or locked",
            "The tenant's state did not allow it: suspended only decrypts, locked does nothing.",
        ),
        "ciphertext_refused": Reason(
            "Ciphertext refused",
            "It was altered, or belongs to another service or resource. Many of these deserve a look.",
        ),
        "object_not_found": Reason(
            "No such key", "The key does not exist or belongs to another service; nobody is told which."
        ),
        "key_not_usable": Reason("Key not usable", "The key is not active, or its usage mask does not allow this."),
        "invalid_request": Reason(
            "Request not understood", "A client sent what no operation takes: most often a mistake in its code."
        ),
        "invalid_name": Reason(
            "Name not allowed", "A client used a name that is not allowed: most often a mistake in its code."
        ),
        "too_many_requests": Reason(
            "Too many requests",
            "More was asked at once than the tenant's limit allows; clients try again by themselves.",
        ),
        "root_key_disabled": _failed(
            "Root key disabled", "The root key is disabled where it is held, so no service key opens."
        ),
        "root_key_pending_deletion": _failed(
            "Root key pending deletion",
            "The root key is about to be deleted where it is held. Cancel that at once if it was not meant.",
        ),
        "root_key_denied": _failed(
            "Root key access denied", "Whoever holds the root key no longer lets the platform use it."
        ),
        "root_key_unreachable": _failed("Root key unreachable", "The server that holds the root key did not answer."),
        "root_key_missing": _failed("Root key missing", "There is no such root key where it should be."),
        "root_key_credentials_refused": _failed(
            "Root key credentials refused", "The platform's credentials for the root key are not accepted any more."
        ),
        "root_key_swapped": _failed("Root key replaced", "Another key answers in the place of the root key."),
        "root_key_unsuitable": _failed("Root key unsuitable", "The root key cannot do what is needed."),
        "root_key_slow": _failed("Root key too slow", "The server that holds the root key answered too late."),
        "root_key_failing": _failed(
            "Root key failing", "The server that holds the root key answered with errors of its own."
        ),
        "root_key_clock_skew": _failed(
            "Clocks differ", "The clocks of the root key's server and the platform differ too much."
        ),
        "root_key_throttled": _failed("Root key throttled", "The server that holds the root key asked to slow down."),
        "vault_unavailable": _failed("Key server unavailable", "The platform's key server did not answer."),
        "key_unavailable": _failed("Tenant key unavailable", "The platform's key server did not open the tenant key."),
        "database_unavailable": _failed("Database unavailable", "The platform's database did not answer."),
        "audit_unavailable": _failed(
            "Audit unavailable", "The record could not be made safe, and then nothing is answered."
        ),
        "internal": _failed(
            "Internal error", "Something went wrong in the crypto service. Operators see it in its log."
        ),
        "not_recorded": Reason("Reason not recorded", "Counted before reasons were kept."),
    }
)


def operation(one: CryptoOperation) -> str:
    """Return its name, which is its own word where it has no other yet."""
    return OPERATIONS.get(one, one.value)


def kind(one: CryptoOperation) -> str:
    """Return whether it is a key request."""
    return "Key request" if one in KEY_REQUESTS else "Other request"


def reason(code: str) -> Reason:
    """Return what a refusal is called and means; a code without an entry is a denial by its own name."""
    return _REASONS.get(code) or Reason(code.replace("_", " ").capitalize(), "The audit stream has the details.")
