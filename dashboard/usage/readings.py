"""The figures of the Usage page, read in one snapshot, so that bars, totals and tables agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from core.services import KEY_REQUESTS
from dashboard.page_context import PageContext
from dashboard.usage import periods
from dashboard.usage.periods import Interval, Period
from dashboard.usage.view import HeadlineFacts
from database.usage import SpanSum, UsageCount, UsageLatency, UsageSum


class Group(StrEnum):
    """What the bars of key requests distinguish."""

    OPERATION = "Operation"
    SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class Readings:
    """Data of one snapshot.

    Totals of the period, and by month, day or hour: key requests by group, rejected requests by cause, and latencies.
    """

    period: Period
    group: Group
    first_day: date
    this_month: int
    sums: Sequence[SpanSum]
    counts: Sequence[UsageCount]
    causes: Sequence[UsageCount]
    latencies: Sequence[UsageLatency]

    @property
    def totals(self) -> Sequence[UsageSum]:
        """The sums without their times."""
        return [one.used for one in self.sums]

    def headline_facts(self, now: datetime) -> HeadlineFacts:
        """Return what the metrics need beside the counts."""
        return HeadlineFacts(self.period, self.first_day, now.astimezone(UTC).date(), self.this_month)


def read(context: PageContext, period: Period, group: Group, interval: Interval) -> Readings:
    """Read the figures of a period for bars of an interval."""
    month, span = periods.this_month(context.now()), period.span(interval)
    with context.database.tenant_snapshot(context.tenant_id) as tx:
        sums, causes = tx.usage.sums_and_causes(span)
        return Readings(
            period,
            group,
            tx.usage.first_day() or month.last,
            sum(one.count for one in tx.usage.counts(month, "operation", KEY_REQUESTS)),
            sums,
            tx.usage.counts(span, "service" if group is Group.SERVICE else "operation", KEY_REQUESTS),
            causes,
            tx.usage.latencies(span, KEY_REQUESTS),
        )
