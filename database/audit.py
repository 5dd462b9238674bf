"""The tenant's audit stream. `okcm.audit_append_all` sets order, time and hash chain while it holds the stream's lock.

A search reads the records. Row-level security prevents an index on their contents: the operators that would use it are
not leakproof. Generated columns would slow down every append (docs/adr/0010).
"""

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import LiteralString, NamedTuple

from core import correlation
from core.audit import AuditFilter
from core.errors.platform import DatabaseRefused
from database.postgres.access import LONGEST_NAME, SESSION_SETTINGS
from database.postgres.deadline import PAUSE_SECONDS
from database.repository import Repository
from openkcm.contract.audit_events import GENESIS, AuditEvent, StoredRecord, fields_of

# LIKE on the text is fast and cannot fail on a record that was tampered with; a cast to jsonb can.
# It may return too many records; Python then applies the exact filter.
_FOUND: LiteralString = """
    select seq, record, chain_hash from okcm.audit_event
    where seq between %(first)s and %(last)s
    and (cardinality(%(names)s::text[]) = 0 or record like any (%(names)s))
    and (cardinality(%(outcomes)s::text[]) = 0 or record like any (%(outcomes)s))
    and (cardinality(%(services)s::text[]) = 0 or record like any (%(services)s))
    and (cardinality(%(operations)s::text[]) = 0 or record like any (%(operations)s))
    and (cardinality(%(texts)s::text[]) = 0 or lower(record) like all (%(texts)s))
"""
# With the values, the planner drops the conditions that are not asked for and finds names by their index.
_COUNTED: LiteralString = """
    from okcm.audit_hour
    where (%(since)s::timestamptz is null or hour >= date_trunc('hour', %(since)s::timestamptz, 'UTC'))
    and (%(until)s::timestamptz is null or hour < %(until)s)
    and (cardinality(%(names)s::text[] || %(families)s::text[]) = 0 or name = any (%(names)s)
         or (cardinality(%(families)s::text[]) > 0 and split_part(name, '.', 1) || '.' = any (%(families)s)))
    and (cardinality(%(outcomes)s::text[]) = 0 or outcome = any (%(outcomes)s))
    and (cardinality(%(services)s::text[]) = 0 or service = any (%(services)s))
    and (cardinality(%(operations)s::text[]) = 0 or operation = any (%(operations)s))
"""
# Unless the transaction has its own limit: all records of the tenant wait for its end.
_LIMIT_PAUSE: LiteralString = """
    set_config('idle_in_transaction_session_timeout',
               coalesce(nullif(current_setting('idle_in_transaction_session_timeout'), %s), %s), true)
"""
_LIMITS = (SESSION_SETTINGS["idle_in_transaction_session_timeout"], f"{PAUSE_SECONDS}s")
_NEWEST: LiteralString = f"{_FOUND} order by seq desc limit %(limit)s"
_OLDEST: LiteralString = f"{_FOUND} order by seq limit %(limit)s"
# Given numbers, and no join: under row-level security, PostgreSQL before 18 uses no index for `seq - 1` of another row.
_CHAIN_HASHES: LiteralString = """
    select seq, chain_hash from okcm.audit_archive where seq = any(%(numbers)s)
    union all select seq, chain_hash from okcm.audit_event where seq = any(%(numbers)s)
"""

_ARCHIVED: LiteralString = "first_seq, seq, chain_hash, sha256, signature, key"

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_UNSTORABLE = re.compile("[\\0\\ud800-\\udfff]")
"""Characters that PostgreSQL cannot store in a text: NUL, and half of a surrogate pair."""

_APPENDED_AT_ONCE = 2000
"""Events in one statement: it takes well below a second, also when all of them are recorded already."""

_MANY = 1000
"""Rows per query when the patterns are imprecise and may match records that the exact filter removes."""


class FoundRecord(NamedTuple):
    """A record and its predecessor's chain hash: `GENESIS` before the first, None if the predecessor is missing."""

    stored: StoredRecord
    previous: bytes | None


class SignedCheckpoint(NamedTuple):
    """A signature over `audit_events.head_message` by the Transit key in `key` (`name:version`)."""

    seq: int
    chain_hash: bytes
    signature: str
    key: str


class ArchivedPart(NamedTuple):
    """The records `first` to `seq` of a stream, which a verified file with this SHA-256 contains.

    `signature` is over `audit_events.archive_message` by the Transit key in `key` (`name:version`).
    """

    first: int
    seq: int
    chain_hash: bytes
    sha256: bytes
    signature: str
    key: str


class DueArchive(NamedTuple):
    """The checkpoint at the end of the next archive file of a stream, and when it was signed."""

    end: SignedCheckpoint
    signed_at: datetime


class StreamBounds(NamedTuple):
    """The last record; the newest checkpoint, its signing time, and the record that now has its number.

    `archived` is the newest archived part; the records after it are in the database.
    """

    last: StoredRecord | None
    signed: SignedCheckpoint | None
    signed_at: datetime | None
    at_signed: StoredRecord | None
    archived: ArchivedPart | None = None


class HourCount(NamedTuple):
    """The number of records of an hour with an outcome."""

    hour: datetime
    outcome: str
    records: int


class AuditStream(Repository):
    def append(self, event: AuditEvent) -> int:
        """Append to the tenant's stream and return the sequence number; a repeated event id adds nothing."""
        return self._append("okcm.audit_append", event)

    def append_command(self, event: AuditEvent) -> int:
        """Append the event of an operator's command, as `append` does; the operator's role can append no others."""
        return self._append("okcm.audit_append_command", event)

    def _append(self, function: LiteralString, event: AuditEvent) -> int:
        # Pages and commands know their correlation id only when they append: set it for the rest of the transaction.
        name = correlation.cleaned(event.correlation_id, LONGEST_NAME)
        appended = self.connection.execute(
            f"select {function}(%s::jsonb), set_config('application_name', %s, true), {_LIMIT_PAUSE}",
            [event.as_json(), name, *_LIMITS],
        ).fetchone()
        if appended is None:
            raise DatabaseRefused
        return int(appended[0])

    def append_all(self, events: Sequence[AuditEvent]) -> None:
        """Append the events in order, as `append` does, in few round trips."""
        for begin in range(0, len(events), _APPENDED_AT_ONCE):
            array = f"[{', '.join(event.as_json() for event in events[begin : begin + _APPENDED_AT_ONCE])}]"
            append = f"select okcm.audit_append_all(%s::jsonb), {_LIMIT_PAUSE}"
            self.connection.execute(append, [array, *_LIMITS])

    def is_recorded(self, event_id: str) -> bool:
        return (
            self.connection.execute("select from okcm.audit_event where event_id = %s", [event_id]).fetchone()
            is not None
        )

    def recorded_at(self, event_id: str) -> datetime | None:
        """Return the time of an event by PostgreSQL's clock; None if it is not recorded."""
        found = self.connection.execute(
            "select (record::jsonb ->> 'time')::timestamptz from okcm.audit_event where event_id = %s", [event_id]
        ).fetchone()
        return None if found is None else found[0]

    def records(self, after: int = 0, limit: int = 1000) -> Sequence[StoredRecord]:
        rows = self.connection.execute(
            "select seq, record, chain_hash from okcm.audit_event where seq > %s order by seq limit %s", [after, limit]
        )
        return [StoredRecord(*row) for row in rows]

    def head(self) -> StoredRecord | None:
        newest = self.connection.execute(
            "select seq, record, chain_hash from okcm.audit_event order by seq desc limit 1"
        ).fetchone()
        return None if newest is None else StoredRecord(*newest)

    def save_signed_head(self, head: SignedCheckpoint) -> None:
        self.connection.execute(
            "select okcm.audit_save_signed_head(%s, %s, %s, %s)", [head.seq, head.chain_hash, head.signature, head.key]
        )

    def signed_heads(self) -> Sequence[SignedCheckpoint]:
        rows = self.connection.execute(
            "select seq, chain_hash, signature, key from okcm.audit_signed_head order by seq"
        )
        return [SignedCheckpoint(*row) for row in rows]

    def ends(self) -> StreamBounds:
        newest = self.connection.execute(
            "select seq, chain_hash, signature, key, signed_at from okcm.audit_signed_head order by seq desc limit 1"
        ).fetchone()
        archived = self.archived()
        if newest is None:
            return StreamBounds(self.head(), None, None, None, archived)
        *head, signed_at = newest
        signed = SignedCheckpoint(*head)
        if archived is not None and archived.seq == signed.seq:
            # The next checkpoint follows within minutes: the archive's own record is after this one.
            at_signed: StoredRecord | None = StoredRecord(archived.seq, "", archived.chain_hash)
        else:
            at_signed = next((one for one in self.records(signed.seq - 1, 1) if one.seq == signed.seq), None)
        return StreamBounds(self.head(), signed, signed_at, at_signed, archived)

    def archived(self) -> ArchivedPart | None:
        """Return the newest archived part of the stream; None while no record is archived."""
        newest = self.connection.execute(
            f"select {_ARCHIVED} from okcm.audit_archive order by seq desc limit 1"  # noqa: S608 - a constant
        ).fetchone()
        return None if newest is None else ArchivedPart(*newest)

    def archived_until(self) -> datetime | None:
        """Return when the checkpoint at the end of the archived records was signed; None while none is archived."""
        ended = self.connection.execute(
            "select signed_at from okcm.audit_signed_head where seq = (select max(seq) from okcm.audit_archive)"
        ).fetchone()
        return None if ended is None else ended[0]

    def archived_before(self, part: ArchivedPart) -> ArchivedPart | None:
        """Return the archived part before `part`; None for the first one."""
        former = self.connection.execute(
            f"select {_ARCHIVED} from okcm.audit_archive where seq = %s",  # noqa: S608 - a constant
            [part.first - 1],
        ).fetchone()
        return None if former is None else ArchivedPart(*former)

    def due_archive(self, after: int, cutoff: datetime, at_most: int) -> DueArchive | None:
        """Return the end of the next archive file, which begins after record `after`.

        It is a checkpoint that was signed before `cutoff`: the last one of the next `at_most` records, else the next.
        """
        due = self.connection.execute(
            "select seq, chain_hash, signature, key, signed_at from okcm.audit_signed_head"
            " where seq > %(after)s and signed_at < %(cutoff)s"
            " order by seq > %(after)s + %(most)s, case when seq > %(after)s + %(most)s then seq else -seq end limit 1",
            {"after": after, "cutoff": cutoff, "most": at_most},
        ).fetchone()
        return None if due is None else DueArchive(SignedCheckpoint(*due[:-1]), due[-1])

    def record_archive(self, part: ArchivedPart) -> None:
        """Record a verified archive file; afterwards the records of the part may be deleted."""
        self.connection.execute(
            "select okcm.record_audit_archive(%s, %s, %s, %s, %s)",
            [part.first, part.seq, part.sha256, part.signature, part.key],
        )

    def delete_archived(self, at_most: int) -> int:
        """Delete at most `at_most` archived records, the oldest first; return their number."""
        row = self.connection.execute("select okcm.delete_archived_events(%s)", [at_most]).fetchone()
        return 0 if row is None else int(row[0])

    def numbers(self, chosen: AuditFilter) -> range:
        """Return the numbers of all records in the filter's period: one range, as times never decrease with numbers."""
        head, archived = self.head(), self.archived()
        begin = 1 if archived is None else archived.seq + 1
        every = range(begin, begin if head is None else head.seq + 1)
        first, last = (self._first_from(moment, every) for moment in (chosen.since, chosen.until))
        return every[first:last]

    def _first_from(self, moment: datetime | None, every: range) -> int | None:
        if moment is None:
            return None
        # The format in which `okcm.audit_append_all` writes a time; in this format, text order is time order.
        text = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        return bisect_left(every, text, key=self._time)

    def _time(self, seq: int) -> str:
        row = self.connection.execute("select record from okcm.audit_event where seq = %s", [seq]).fetchone()
        return "" if row is None else str(fields_of(row[0]).get("time"))

    def hours(self, chosen: AuditFilter) -> Sequence[HourCount]:
        """Return the number of records by hour and outcome, the oldest first; whole hours, without texts and actors.

        It counts records from the first append of release 0.2 on (`okcm.audit_hour`).
        """
        rows = self.connection.execute(
            f"select hour, outcome, sum(records)::bigint {_COUNTED} group by 1, 2 order by 1, 2", _counted(chosen)
        )
        return [HourCount(*row) for row in rows]

    def services_and_operations(self) -> tuple[Sequence[str], Sequence[str]]:
        """Return the services and the operations of the newest hours with records, for a choice."""
        row = self.connection.execute(
            "select coalesce(array_agg(distinct service) filter (where service <> ''), '{}'),"
            " coalesce(array_agg(distinct operation) filter (where operation <> ''), '{}')"
            " from (select service, operation from okcm.audit_hour order by hour desc limit 2000) as newest"
        ).fetchone()
        return ([], []) if row is None else (sorted(row[0]), sorted(row[1]))

    def parts(self, chosen: AuditFilter, among: range) -> Sequence[range]:
        """Return the parts of `among`, in order, outside of which no record meets the conditions of the filter."""
        if not chosen.is_counted or not among:
            return [among]
        counted_from = self.connection.execute(
            "select min(first_seq) from okcm.audit_hour"
            " where hour = (select hour from okcm.audit_hour order by hour limit 1)"
        ).fetchone()
        begin = among.stop if counted_from is None or counted_from[0] is None else counted_from[0]
        rows = self.connection.execute(
            f"select min(first_seq), max(last_seq) {_COUNTED} group by hour order by hour", _counted(chosen)
        )
        found = [range(among.start, min(begin, among.stop))]
        found += [range(max(first, among.start), min(last + 1, among.stop)) for first, last in rows]
        return [part for part in found if part]

    def found(self, chosen: AuditFilter, among: range, limit: int, *, newest_first: bool) -> Sequence[FoundRecord]:
        """Return the newest or oldest records of `among` that match the filter (without its period), in that order.

        No index covers the contents of a record, so the duration grows with the length of `among`. The caller MUST
        keep the range short and call again for the next range.
        """
        texts = [text for text in (chosen.text, chosen.actor, chosen.subject) if text]
        if any(map(_UNSTORABLE.search, texts)):
            return []
        is_loose = (
            bool(chosen.actor or chosen.subject or chosen.services or chosen.operations) or not chosen.text.isascii()
        )
        most = max(limit, _MANY) if is_loose else limit
        asked = {
            "names": [_field("name", name) for name in chosen.names],
            "outcomes": [_field("outcome", outcome) for outcome in chosen.outcomes],
            "services": [like for name in chosen.services for like in _of_service(name)],
            "operations": [_field("operation", name) for name in chosen.operations],
            "texts": [_anywhere(text) for text in texts],
            "limit": most,
        }
        found: list[StoredRecord] = []
        while among and len(found) < limit:
            rows = self.connection.execute(
                _NEWEST if newest_first else _OLDEST, asked | {"first": among[0], "last": among[-1]}
            ).fetchall()
            found += [StoredRecord(*row) for row in rows if chosen.wants(row[1])]
            if len(rows) < most:
                break
            among = range(among[0], rows[-1][0]) if newest_first else range(rows[-1][0] + 1, among[-1] + 1)
        return self._with_previous(found[:limit])

    def _with_previous(self, records: Sequence[StoredRecord]) -> Sequence[FoundRecord]:
        hashes = {0: GENESIS} | {one.seq: one.chain_hash for one in records}
        missing = [one.seq - 1 for one in records if one.seq - 1 not in hashes]
        if missing:
            hashes |= dict(self.connection.execute(_CHAIN_HASHES, {"numbers": missing}).fetchall())
        return [FoundRecord(one, hashes.get(one.seq - 1)) for one in records]


def _counted(chosen: AuditFilter) -> dict[str, object]:
    return {
        "since": chosen.since,
        "until": chosen.until,
        "names": [name for name in chosen.names if not name.endswith(".")],
        "families": [name for name in chosen.names if name.endswith(".")],
        "outcomes": list(chosen.outcomes),
        "services": list(chosen.services),
        "operations": list(chosen.operations),
    }


def _of_service(name: str) -> tuple[str, ...]:
    """Return LIKE patterns of all records of a service, and some others."""
    return _field("actor", name), _field("subject", name), f'%"subject": "{_literally(name)} %'


def _field(name: str, value: str) -> str:
    """Return the LIKE pattern of a field in the record's JSON; a name that ends in a dot matches as a prefix."""
    return f'%"{name}": "{_literally(value)}' + ("%" if value.endswith(".") else '"%')


def _anywhere(text: str) -> str:
    """Return the LIKE pattern of a text at any position, escaped as in JSON.

    PostgreSQL maps upper and lower case by the database's locale. The locale may be C, which maps ASCII only: any other
    letter therefore matches everything here.
    """
    escaped = _literally(json.dumps(text, ensure_ascii=False)[1:-1])
    return f"%{_BEYOND_ASCII.sub('%', escaped).lower()}%"


def _literally(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
