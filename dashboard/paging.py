"""Turning the pages of an audit stream, in both directions and with any filter; each turn is one short transaction.

A page knows its `span`, the numbers it has dealt with: what is shown lies in it, and nothing else in it fits the
filter. Older and newer begin at its ends, so no record is shown twice or left out while the stream grows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from core.audit import AuditFilter
from dashboard.stream import WINDOW, look
from database.audit import FoundRecord
from database.connection.database import Database


@dataclass(frozen=True, slots=True)
class Pace:
    """How many records make a page, and how many are looked at between two looks at the clock."""

    length: int = 50
    window: int = WINDOW


NORMAL = Pace()


class Turn(StrEnum):
    NEWEST = "newest"
    OLDER = "older"
    NEWER = "newer"
    FURTHER = "further"
    """Go on looking for what is missing on a page that was shown before all was looked at."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first. `numbers` are all that the filter's time has."""

    tenant_id: str
    chosen: AuditFilter
    numbers: range
    span: range
    found: tuple[FoundRecord, ...] = ()
    backwards: bool = True
    pace: Pace = NORMAL

    @property
    def older(self) -> range:
        return range(self.numbers.start, self.span.start)

    @property
    def newer(self) -> range:
        return range(self.span.stop, self.numbers.stop)

    @property
    def rest(self) -> range:
        """The numbers that must still be looked at before this page is whole; empty when it is."""
        if len(self.found) >= self.pace.length:
            return range(0)
        return self.older if self.backwards else self.newer


def newest(
    database: Database, tenant_id: str, chosen: AuditFilter, tired: Callable[[], bool], pace: Pace = NORMAL
) -> Page:
    """Return the page of the newest records that fit."""
    with database.tenant_tx(tenant_id) as tx:
        numbers = tx.audit.numbers(chosen)
    end = range(numbers.stop, numbers.stop)
    return turn(database, Page(tenant_id, chosen, numbers, end, pace=pace), Turn.FURTHER, tired)


def turn(database: Database, page: Page, how: Turn, tired: Callable[[], bool]) -> Page:
    """Return another page; it may be unfinished (`rest`) where `tired` said to stop looking."""
    if how is Turn.NEWEST:
        return newest(database, page.tenant_id, page.chosen, tired, page.pace)
    span, kept, backwards = page.span, page.found, page.backwards
    if how is Turn.OLDER:
        span, kept, backwards = range(span.start, span.start), (), True
    elif how is Turn.NEWER:
        span, kept, backwards = range(span.stop, span.stop), (), False
    numbers = page.numbers
    among = range(numbers.start, span.start) if backwards else range(span.stop, numbers.stop)
    with database.tenant_tx(page.tenant_id) as tx:
        looked = look(
            tx.audit,
            page.chosen,
            among,
            page.pace.length - len(kept),
            newest_first=backwards,
            tired=tired,
            window=page.pace.window,
        )
    if backwards:
        span, found = range(looked.rest.stop, span.stop), kept + looked.found
    else:
        span, found = range(span.start, looked.rest.start), looked.found[::-1] + kept
    return Page(page.tenant_id, page.chosen, numbers, span, found, backwards, page.pace)
