"""The figures of the Usage page, read in one snapshot, so that bars, totals and tables agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from core.services import KEY_REQUESTS
from dashboard.page_context import PageContext
from dashboard.usage import periods
from dashboard.usage.periods import Interval, Period
from dashboard.usage.view import HeadlineFacts
from database.connection.transaction import TenantTransaction
from database.usage import Days, SpanSum, UsageCount, UsageLatency, UsageSpan, UsageSum


class Group(StrEnum):
    """What the bars of key requests distinguish."""

    OPERATION = "Operation"
    SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class Readings:
    """Data of one snapshot.

    Totals of the period, and by month, day or hour: key requests by group, rejected requests by cause, and latencies.
    `first_day` is the tenant's first day with use.
    """

    period: Period
    group: Group
    first_day: date
    headline_facts: HeadlineFacts
    sums: Sequence[SpanSum]
    counts: Sequence[UsageCount]
    causes: Sequence[UsageCount]
    latencies: Sequence[UsageLatency]

    @property
    def totals(self) -> Sequence[UsageSum]:
        """The sums without their times."""
        return [one.used for one in self.sums]


def read(context: PageContext, period: Period, group: Group, interval: Interval) -> Readings:
    """Read the figures of a period for bars of an interval."""
    month, span = periods.this_month(context.now()), period.span(interval)
    with context.database.tenant_snapshot(context.tenant_id) as tx:
        sums, causes = tx.usage.sums_and_causes(span)
        first_day = tx.usage.first_day() or month.last
        return Readings(
            period,
            group,
            first_day,
            _headline_facts(tx, period, first_day, month),
            sums,
            tx.usage.counts(span, "service" if group is Group.SERVICE else "operation", KEY_REQUESTS),
            causes,
            tx.usage.latencies(span, KEY_REQUESTS),
        )


def _headline_facts(tx: TenantTransaction, period: Period, first_day: date, month: Days) -> HeadlineFacts:
    # Not from the counts of the bars: a bar can be a month, of which some days are not complete.
    complete = period.complete_days(first_day, month.last)
    return HeadlineFacts(
        period,
        month.last,
        0 if complete is None else (complete.last - complete.first).days + 1,
        0 if complete is None else _key_requests(tx, complete),
        _key_requests(tx, month),
    )


def _key_requests(tx: TenantTransaction, span: UsageSpan) -> int:
    return sum(one.count for one in tx.usage.counts(span, "operation", KEY_REQUESTS))
