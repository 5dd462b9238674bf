"""Search, verification, export and paging of a tenant's audit stream. Each step is a short transaction.

A stream can hold millions of records, so no function reads it at once, and the user can stop in between.

A page has a `span`, the record numbers that it covers: its records are in the span, and no other record of the span
matches the filter. Older and newer pages start at its ends, so no record is shown twice or omitted while the stream
grows.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog

from compliance.audit.export import PIECE, begin_export, require_archive_signature
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
"""Records read by one query: about 20 ms."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StreamScan:
    """Found records in search order, and the numbers not searched yet."""

    found: tuple[FoundRecord, ...]
    rest: range


def search(  # noqa: PLR0913 - scope, filter, limit and deadline
    audit: AuditStream,
    chosen: AuditFilter,
    among: range,
    limit: int,
    *,
    newest_first: bool,
    expired: Callable[[], bool],
    window: int = WINDOW,
) -> StreamScan:
    """Search `among` until `limit` records are found or `expired` returns True.

    Parts of the stream without a match, by the counts of the hours, are not read.
    """
    found: list[FoundRecord] = []
    parts = list(audit.parts(chosen, among))
    while among and len(found) < limit:
        among = _skip(among, parts, newest_first=newest_first)
        if not among:
            break
        part = _common(among, parts[-1 if newest_first else 0])
        part = part[-window:] if newest_first else part[:window]
        found += audit.found(chosen, part, limit - len(found), newest_first=newest_first)
        beyond = part[0] if newest_first else part[-1]
        edge = found[-1].stored.seq if len(found) == limit else beyond
        among = range(among.start, edge) if newest_first else range(edge + 1, among.stop)
        if expired():
            break
    return StreamScan(tuple(found), _skip(among, parts, newest_first=newest_first))


def _skip(among: range, parts: list[range], *, newest_first: bool) -> range:
    """Return `among` without the numbers before its first part in search order; remove the parts that are searched."""
    while parts:
        part = parts[-1] if newest_first else parts[0]
        if common := _common(among, part):
            return range(among.start, common.stop) if newest_first else range(common.start, among.stop)
        parts.remove(part)
    end = among.start if newest_first else among.stop
    return range(end, end)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


@dataclass(frozen=True, slots=True)
class StreamVerification:
    """A verified stream. `signed` is the newest record covered by a signed checkpoint, 0 for none.

    `signature` is the result of verifying that checkpoint; None without a checkpoint.
    """

    records: int
    signed: int
    signature: CheckedSignature | None
    seconds: float


def signature(database: Database, tenant_id: str, ends: StreamBounds) -> CheckedSignature | None:
    """Verify the signature of the newest checkpoint with the stored public key; None without a checkpoint.

    The key comes from the database that holds the stream. So this detects changes by anyone who cannot also add a key
    there. Against an attacker who can, compare the fingerprint with the stored one.
    """
    if (head := ends.signed) is None:
        return None
    known = PublicKeys.from_database(PlatformQueries(database).audit_keys())
    return known.check(head.key, head_message(tenant_id, head.seq, head.chain_hash), head.signature)


def verify(database: Database, tenant_id: str, progressed: Callable[[int, int], None]) -> StreamVerification:
    """Verify the stream to its current last record, from its first one or the first after the archive.

    It starts again if records are archived meanwhile. `progressed` receives (done, of).

    Raises:
        AuditBroken: its message names the position.
    """
    began = time.monotonic()
    while True:
        with database.tenant_snapshot(tenant_id) as tx:
            ends = tx.audit.ends()
        checked = signature(database, tenant_id, ends)
        try:
            known = PublicKeys.from_database(PlatformQueries(database).audit_keys())
            require_archive_signature(tenant_id, ends.archived, known)
            _verify_pieces(database, tenant_id, ends, progressed)
            _require_valid_signature(ends, checked)
        except AuditBroken as broken:
            with database.tenant_tx(tenant_id) as tx:
                is_archived_meanwhile = tx.audit.archived() != ends.archived
            if is_archived_meanwhile:
                continue
            log.error("audit stream broken", tenant_id=tenant_id, problem=broken.message)  # noqa: TRY400 - a traceback adds nothing
            raise
        return StreamVerification(_number(ends.last), _number(ends.signed), checked, time.monotonic() - began)


def _verify_pieces(
    database: Database, tenant_id: str, ends: StreamBounds, progressed: Callable[[int, int], None]
) -> None:
    end, signed = _number(ends.last), ends.signed
    archived = ends.archived
    last = None if archived is None else StoredRecord(archived.seq, "", archived.chain_hash)
    while _number(last) < end:
        done = _number(last)
        with database.tenant_tx(tenant_id) as tx:
            piece = tx.audit.records(after=done, limit=min(PIECE, end - done))
        last = verify_chain(piece, after=last)
        if signed is not None and any(r.seq == signed.seq and r.chain_hash != signed.chain_hash for r in piece):
            raise AuditBroken(f"record {signed.seq} differs from the signed record")
        if _number(last) == done:
            raise AuditBroken(f"record {done + 1} is missing or out of order")
        progressed(_number(last), end)
    if signed is not None and end < signed.seq:
        raise AuditBroken(f"record {end + 1} is missing: the stream is signed up to record {signed.seq}")


def _require_valid_signature(ends: StreamBounds, checked: CheckedSignature | None) -> None:
    if checked is not None and checked.problem is not None:
        raise AuditBroken(f"checkpoint of record {_number(ends.signed)}: {checked.problem}")


def _number(one: StoredRecord | SignedCheckpoint | None) -> int:
    return 0 if one is None else one.seq


def export(context: PageContext, chosen: AuditFilter) -> Iterator[str] | None:
    """Return the lines of an export of the matching records, in batches; None without the permission.

    The request is recorded first, and the completed export at its end.
    """
    allowed = context.may(Permission.VIEW_AUDIT)
    event = (
        context.event(AuditName.EXPORTED, "audit stream", "intended", **chosen.words())
        if allowed
        else context.event(AuditName.ACTION_REFUSED, "audit stream", "refused", action="export")
    )
    keys = PublicKeys.from_database(PlatformQueries(context.database).audit_keys())
    with context.database.tenant_tx(context.tenant_id) as tx:
        tx.audit.append(event)
    with context.database.tenant_snapshot(context.tenant_id) as tx:
        begun = begin_export(tx, chosen, context.now(), keys.fingerprint)

    def record_completion(records: int) -> None:
        with context.database.tenant_tx(context.tenant_id) as tx:
            tx.audit.append(context.event(AuditName.EXPORTED, "audit stream", "success", records=str(records)))

    return begun.lines(context.database, record_completion) if allowed else None


@dataclass(frozen=True, slots=True)
class ScanBudget:
    """Records per page, and records read between two checks of the deadline."""

    length: int = 100
    window: int = WINDOW


NORMAL = ScanBudget()


class PageDirection(StrEnum):
    NEWEST = "newest"
    OLDER = "older"
    NEWER = "newer"
    FURTHER = "further"
    """Continue an incomplete page."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first. `numbers` are all record numbers in the time range of the filter."""

    tenant_id: str
    chosen: AuditFilter
    numbers: range
    span: range
    found: tuple[FoundRecord, ...] = ()
    backwards: bool = True
    budget: ScanBudget = NORMAL

    @property
    def older(self) -> range:
        return range(self.numbers.start, self.span.start)

    @property
    def newer(self) -> range:
        return range(self.span.stop, self.numbers.stop)

    @property
    def rest(self) -> range:
        """Numbers to search before this page is complete; empty when it is."""
        if len(self.found) >= self.budget.length:
            return range(0)
        return self.older if self.backwards else self.newer


def newest(
    database: Database, tenant_id: str, chosen: AuditFilter, expired: Callable[[], bool], budget: ScanBudget = NORMAL
) -> Page:
    """Return the page of the newest matching records."""
    with database.tenant_tx(tenant_id) as tx:
        numbers = tx.audit.numbers(chosen)
    end = range(numbers.stop, numbers.stop)
    return turn(database, Page(tenant_id, chosen, numbers, end, budget=budget), PageDirection.FURTHER, expired)


def turn(database: Database, page: Page, how: PageDirection, expired: Callable[[], bool]) -> Page:
    """Return another page; it can be incomplete (`rest`) when `expired` returned True."""
    if how is PageDirection.NEWEST:
        return newest(database, page.tenant_id, page.chosen, expired, page.budget)
    span, kept, backwards = page.span, page.found, page.backwards
    if how is PageDirection.OLDER:
        span, kept, backwards = range(span.start, span.start), (), True
    elif how is PageDirection.NEWER:
        span, kept, backwards = range(span.stop, span.stop), (), False
    numbers = page.numbers
    among = range(numbers.start, span.start) if backwards else range(span.stop, numbers.stop)
    with database.tenant_tx(page.tenant_id) as tx:
        scan = search(
            tx.audit,
            page.chosen,
            among,
            page.budget.length - len(kept),
            newest_first=backwards,
            expired=expired,
            window=page.budget.window,
        )
    if backwards:
        span, found = range(scan.rest.stop, span.stop), kept + scan.found
    else:
        span, found = range(span.start, scan.rest.start), scan.found[::-1] + kept
    return Page(page.tenant_id, page.chosen, numbers, span, found, backwards, page.budget)
