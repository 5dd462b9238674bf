"""The records of each hour as values: bars, the table of the same figures, and the range of a selected hour; pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dashboard.audit.address import AuditQuery
from dashboard.components import formatting as words
from database.audit import HourCount

MOST = 168
"""Bars at once: a week. A longer range shows its newest week."""
_HOUR = timedelta(hours=1)
_NOT_ANSWERED = frozenset({"refused", "failure"})


@dataclass(frozen=True, slots=True)
class HourBar:
    """The records of an hour: `answered` have the outcome success or intended."""

    hour: datetime
    answered: int = 0
    not_answered: int = 0

    @property
    def label(self) -> str:
        return f"{self.hour.day} {self.hour:%b %H:%M}"


@dataclass(frozen=True, slots=True)
class HourBars:
    """The bars of a range, the oldest first; `is_cut` when the range has hours before them."""

    bars: tuple[HourBar, ...]
    is_cut: bool

    def summary(self) -> str:
        """Return the bars as a sentence, for a reader who does not see them."""
        answered, not_answered = (sum(values) for values in zip(*self._counts(), strict=True)) if self.bars else (0, 0)
        first = f"{self.bars[0].label} UTC" if self.bars else ""
        if not self.bars:
            return "No records in the hours of this range."
        return (
            f"Records of {words.count(len(self.bars), 'hour')} from {first}: {answered:,} answered, "
            f"{not_answered:,} refused or failed."
        )

    def _counts(self) -> list[tuple[int, int]]:
        return [(bar.answered, bar.not_answered) for bar in self.bars]


def window(query: AuditQuery, now: datetime) -> AuditQuery:
    """Return the query with the part of its range that the bars show."""
    end = min(query.until or now, now)
    begin = max(_hour(end) - (MOST - 1) * _HOUR, query.since or datetime.min.replace(tzinfo=UTC))
    return replace(query, since=begin)


def bars(counts: Sequence[HourCount], query: AuditQuery, now: datetime) -> HourBars:
    """Return the bars for the counts of `window`, with the hours without records between them."""
    answered: Counter[datetime] = Counter()
    not_answered: Counter[datetime] = Counter()
    for one in counts:
        (not_answered if one.outcome in _NOT_ANSWERED else answered)[one.hour.astimezone(UTC)] += one.records
    shown = window(query, now).since
    is_cut = shown is not None and (query.since is None or query.since < shown)
    hours = sorted({*answered, *not_answered})
    if not hours:
        return HourBars((), is_cut)
    number = int((hours[-1] - hours[0]) / _HOUR) + 1
    every = (hours[0] + n * _HOUR for n in range(number))
    return HourBars(tuple(HourBar(hour, answered[hour], not_answered[hour]) for hour in every), is_cut)


def narrowed(query: AuditQuery, hour: datetime) -> AuditQuery:
    """Return the query for the records of one hour, within its range."""
    since, until = hour, hour + _HOUR
    return replace(
        query,
        since=since if query.since is None else max(since, query.since),
        until=until if query.until is None else min(until, query.until),
    )


def _hour(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
