"""Reading a tenant's audit stream from the dashboard: find, verify, export. Each piece is a short transaction.

A stream can hold millions of records, so nothing here reads it at once, and whoever asked can stop in between.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import structlog

from dashboard.seat import Seat
from database.interfaces import AuditStream, FoundRecord, SignedHead, StreamEnds, TenantDatabase
from tenancy.audit import AuditName, StoredRecord, verify_chain
from tenancy.audit_export import ExportHeader, SignedPlace, end_line, header_line, record_line
from tenancy.audit_search import AuditFilter
from tenancy.errors import AuditBroken
from tenancy.people import Permission

WINDOW = 10_000
"""Records looked at by one query: some 20 ms."""

_PIECE = 5_000
"""Records verified or exported between two looks at whether to go on; a few megabytes."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Looked:
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
) -> Looked:
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
    return Looked(tuple(found), among)


@dataclass(frozen=True, slots=True)
class Verified:
    """A whole stream was verified. `signed` is the number up to which a signed head stands for it, 0 for none."""

    records: int
    signed: int
    seconds: float


def verify(database: TenantDatabase, tenant_id: str, progressed: Callable[[int, int], None]) -> Verified:
    """Verify the stream from its first record to what is now its last; `progressed` gets (done, of) now and then.

    Raises: AuditBroken, whose message names the position.
    """
    began = time.monotonic()
    with database.tenant_tx(tenant_id) as tx:
        ends = tx.audit.ends()
    try:
        _verify_pieces(database, tenant_id, ends, progressed)
    except AuditBroken as broken:
        log.error("audit stream broken", tenant_id=tenant_id, problem=broken.message)  # noqa: TRY400 - no trace helps
        raise
    return Verified(_number(ends.last), _number(ends.signed), time.monotonic() - began)


def _verify_pieces(
    database: TenantDatabase, tenant_id: str, ends: StreamEnds, progressed: Callable[[int, int], None]
) -> None:
    end, signed = _number(ends.last), ends.signed
    last: StoredRecord | None = None
    while _number(last) < end:
        done = _number(last)
        with database.tenant_tx(tenant_id) as tx:
            piece = tx.audit.records(after=done, limit=min(_PIECE, end - done))
        last = verify_chain(piece, after=last)
        if signed is not None and any(r.seq == signed.seq and r.chain_hash != signed.chain_hash for r in piece):
            raise AuditBroken(f"record {signed.seq} is not the one that was signed")
        if _number(last) == done:
            raise AuditBroken(f"record {done + 1} is missing or out of order")
        progressed(_number(last), end)
    if signed is not None and end < signed.seq:
        raise AuditBroken(f"record {end + 1} is missing: the stream was signed up to record {signed.seq}")


def _number(one: StoredRecord | SignedHead | None) -> int:
    return 0 if one is None else one.seq


def export(seat: Seat, chosen: AuditFilter) -> Iterator[str] | None:
    """Return the lines of `tenancy.audit_export` for the records chosen, some at a time; None if the person may not.

    Both are put on record: at once that it was asked for, and at its end that everything was handed out.
    """
    allowed = seat.may(Permission.VIEW_AUDIT)
    event = (
        seat.event(AuditName.EXPORTED, "audit stream", "intended", **chosen.words())
        if allowed
        else seat.event(AuditName.ACTION_REFUSED, "audit stream", "refused", action="export")
    )
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(event)
        ends, among = tx.audit.ends(), tx.audit.numbers(chosen)
    return _lines(seat, chosen, ends, among) if allowed else None


def _lines(seat: Seat, chosen: AuditFilter, ends: StreamEnds, among: range) -> Iterator[str]:
    yield header_line(_header(seat, chosen, ends))
    records = 0
    while among:
        window, among = among[:_PIECE], among[_PIECE:]
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            found = tx.audit.found(chosen, window, _PIECE, newest_first=False)
        records += len(found)
        if found:
            yield "".join(record_line(one.stored) for one in found)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tx.audit.append(seat.event(AuditName.EXPORTED, "audit stream", "success", records=str(records)))
    yield end_line(records)


def _header(seat: Seat, chosen: AuditFilter, ends: StreamEnds) -> ExportHeader:
    head, signed = ends.signed, None
    if head is not None:
        signed = SignedPlace(seq=head.seq, chain_hash=head.chain_hash.hex(), signature=head.signature, key=head.key)
    return ExportHeader(
        tenant_id=seat.tenant_id,
        exported_at=seat.now(),
        last_seq=_number(ends.last),
        selection=chosen.words(),
        signed_head=signed,
    )
