"""What the Usage page says, from the rows of some days."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from core.services import KEY_REQUESTS, CryptoOperation
from core.usage import BOUNDS, Latency, together
from dashboard.views.usage_period import Period
from dashboard.views.usage_words import NO_SERVICE, kind, operation, reason
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
