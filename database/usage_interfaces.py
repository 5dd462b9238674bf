"""What is counted of the uses of keys; part of `interfaces`, which hands it out."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Literal, Protocol

from database.usage_rows import AnsweredDay, DayCount, UsageDay, UsageRow, UsageSum, UsageTotalRow, UsesRow
from tenancy.services import CryptoOperation

UsagePart = Literal["service", "operation"]


class Usage(Protocol):
    """Counters by the minute and by the UTC day, both written by one statement.

    Where days are asked for, `first` and `last` are both among them.
    """

    def add(self, rows: Sequence[UsesRow], batch_id: str) -> bool:
        """Add to the counters of each minute and day; False when this batch was added before, and then nothing is."""
        ...

    def between(self, since: datetime, until: datetime) -> Sequence[UsageRow]:
        """Return the minutes in [since, until), oldest first."""
        ...

    def totals(self, since: datetime, until: datetime) -> Sequence[UsageTotalRow]:
        """Return the sum of the minutes in [since, until) for each service and operation."""
        ...

    def days(self, first: date, last: date) -> Sequence[UsageDay]:
        """Return all there is of some days, oldest first: for files, not for pages."""
        ...

    def sums(self, first: date, last: date) -> Sequence[UsageSum]:
        """Return the sums over some days, by service, operation and refusal, in this order.

        How long they took is told of answered requests alone.
        """
        ...

    def by_day(
        self, first: date, last: date, part: UsagePart, operations: Collection[CryptoOperation]
    ) -> Sequence[DayCount]:
        """Return how often each part was used on each day by these operations, in order; days without are left out."""
        ...

    def answered(self, first: date, last: date, operations: Collection[CryptoOperation]) -> Sequence[AnsweredDay]:
        """Return how often each of some operations was answered, by service, day and operation, in this order."""
        ...

    def last_answered(self, operation: CryptoOperation) -> Mapping[str, date]:
        """Return the last day on which an operation was answered, for each service for which it ever was."""
        ...

    def first_day(self) -> date | None:
        """Return the first day on which anything was counted; None when nothing ever was."""
        ...
