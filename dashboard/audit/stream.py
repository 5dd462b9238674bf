"""Reading a tenant's audit stream from the dashboard: find, verify, export. Each piece is a short transaction.

A stream can hold millions of records, so nothing here reads it at once, and whoever asked can stop in between.

Turning the pages of an audit stream, in both directions and with any filter; each turn is one short transaction.

A page knows its `span`, the numbers it has dealt with: what is shown lies in it, and nothing else in it fits the
filter. Older and newer begin at its ends, so no record is shown twice or left out while the stream grows.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog

from compliance.audit.export import PIECE, begin_export
from core.audit import AuditFilter
from core.tenants.roles import Permission
from dashboard.page_context import PageContext
from database.audit import AuditStream, FoundRecord, SignedCheckpoint, StreamBounds
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName, StoredRecord, head_message, verify_chain
from openkcm.errors import AuditBroken
from openkcm.verification.public_keys import PublicKeys
from openkcm.verification.results import CheckedSignature

WINDOW = 10_000
"""Records looked at by one query: some 20 ms."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StreamScan:
    """What was found, in the order it was looked for, and the numbers that nobody has looked at yet."""

    found: tuple[FoundRecord, ...]
    rest: range


def look(  # noqa: PLR0913 - where, what, how much, and when to stop
    audit: AuditStream,
    chosen: AuditFilter,
    among: range,
    limit: int,
    *,
    newest_first: bool,
    tired: Callable[[], bool],
    window: int = WINDOW,
) -> StreamScan:
    """Look through `among` until `limit` records are found or `tired` says to stop, which it is asked now and then."""
    found: list[FoundRecord] = []
    while among and len(found) < limit:
        part = among[-window:] if newest_first else among[:window]
        found += audit.found(chosen, part, limit - len(found), newest_first=newest_first)
        beyond = part[0] if newest_first else part[-1]
        edge = found[-1].stored.seq if len(found) == limit else beyond
        among = range(among.start, edge) if newest_first else range(edge + 1, among.stop)
        if tired():
            break
    return StreamScan(tuple(found), among)


@dataclass(frozen=True, slots=True)
class StreamVerification:
    """A whole stream was verified. `signed` is the number up to which a signed head stands for it, 0 for none.

    `signature` is what came of checking that head's signature; None where no head is signed.
    """

    records: int
    signed: int
    signature: CheckedSignature | None
    seconds: float


def signature(database: Database, tenant_id: str, ends: StreamBounds) -> CheckedSignature | None:
    """Check the signature of the newest head with the public key on record; None where no head is signed.

    The key comes from the database that holds the stream, so this finds what was altered by anybody who cannot also add
    a key there. Against whoever can, people compare the fingerprint with the one they noted.
    """
    if (head := ends.signed) is None:
        return None
    known = PublicKeys.on_record(PlatformQueries(database).audit_keys())
    return known.check(head.key, head_message(tenant_id, head.seq, head.chain_hash), head.signature)


def verify(database: Database, tenant_id: str, progressed: Callable[[int, int], None]) -> StreamVerification:
    """Verify the stream from its first record to what is now its last; `progressed` gets (done, of) now and then.

    Raises: AuditBroken, whose message names the position.
    """
    began = time.monotonic()
    with database.tenant_tx(tenant_id) as tx:
        ends = tx.audit.ends()
    checked = signature(database, tenant_id, ends)
    try:
        _verify_pieces(database, tenant_id, ends, progressed)
        _believe(ends, checked)
    except AuditBroken as broken:
        log.error("audit stream broken", tenant_id=tenant_id, problem=broken.message)  # noqa: TRY400 - no trace helps
        raise
    return StreamVerification(_number(ends.last), _number(ends.signed), checked, time.monotonic() - began)


def _verify_pieces(
    database: Database, tenant_id: str, ends: StreamBounds, progressed: Callable[[int, int], None]
) -> None:
    end, signed = _number(ends.last), ends.signed
    last: StoredRecord | None = None
    while _number(last) < end:
        done = _number(last)
        with database.tenant_tx(tenant_id) as tx:
            piece = tx.audit.records(after=done, limit=min(PIECE, end - done))
        last = verify_chain(piece, after=last)
        if signed is not None and any(r.seq == signed.seq and r.chain_hash != signed.chain_hash for r in piece):
            raise AuditBroken(f"record {signed.seq} is not the one that was signed")
        if _number(last) == done:
            raise AuditBroken(f"record {done + 1} is missing or out of order")
        progressed(_number(last), end)
    if signed is not None and end < signed.seq:
        raise AuditBroken(f"record {end + 1} is missing: the stream was signed up to record {signed.seq}")


def _believe(ends: StreamBounds, checked: CheckedSignature | None) -> None:
    if checked is not None and checked.problem is not None:
        raise AuditBroken(f"the signed head of record {_number(ends.signed)}: {checked.problem}")


def _number(one: StoredRecord | SignedCheckpoint | None) -> int:
    return 0 if one is None else one.seq


def export(seat: PageContext, chosen: AuditFilter) -> Iterator[str] | None:
    """Return the lines of an export for the records chosen, some at a time; None if the person may not.

    Both are put on record: at once that it was asked for, and at its end that everything was handed out.
    """
    allowed = seat.may(Permission.VIEW_AUDIT)
    event = (
        seat.event(AuditName.EXPORTED, "audit stream", "intended", **chosen.words())
        if allowed
        else seat.event(AuditName.ACTION_REFUSED, "audit stream", "refused", action="export")
    )
    keys = PublicKeys.on_record(PlatformQueries(seat.database).audit_keys())
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(event)
        begun = begin_export(tx, chosen, seat.now(), keys.fingerprint)

    def handed_out(records: int) -> None:
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            tx.audit.append(seat.event(AuditName.EXPORTED, "audit stream", "success", records=str(records)))

    return begun.lines(seat.database, handed_out) if allowed else None


@dataclass(frozen=True, slots=True)
class ScanBudget:
    """How many records make a page, and how many are looked at between two looks at the clock."""

    length: int = 50
    window: int = WINDOW


NORMAL = ScanBudget()


class PageDirection(StrEnum):
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
    pace: ScanBudget = NORMAL

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
    database: Database, tenant_id: str, chosen: AuditFilter, tired: Callable[[], bool], pace: ScanBudget = NORMAL
) -> Page:
    """Return the page of the newest records that fit."""
    with database.tenant_tx(tenant_id) as tx:
        numbers = tx.audit.numbers(chosen)
    end = range(numbers.stop, numbers.stop)
    return turn(database, Page(tenant_id, chosen, numbers, end, pace=pace), PageDirection.FURTHER, tired)


def turn(database: Database, page: Page, how: PageDirection, tired: Callable[[], bool]) -> Page:
    """Return another page; it may be unfinished (`rest`) where `tired` said to stop looking."""
    if how is PageDirection.NEWEST:
        return newest(database, page.tenant_id, page.chosen, tired, page.pace)
    span, kept, backwards = page.span, page.found, page.backwards
    if how is PageDirection.OLDER:
        span, kept, backwards = range(span.start, span.start), (), True
    elif how is PageDirection.NEWER:
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
