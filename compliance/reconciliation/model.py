"""Double entry: what the key server's audit log says of a tenant's keys, held against what the tenant's stream says.

Pure: two sequences in, differences out (docs/double-entry.md says what each proves). A *change* at the key server has
one record and the other way round; a *use* of a key needs a record that explains it. What opens customers' data, a
service key opened by the crypto service, is matched one to one like a change: the rest opens nothing by itself, and
needs an operation on record that was under way. Times need not agree to the second, since the two sides have clocks
of their own and a record is written after what it is about.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

from core.keys.encryption_context import EncryptionContext
from openkcm.contract.audit_events import AuditName, StoredRecord, fields_of

SLACK = timedelta(seconds=30)
"""How far the clocks of key server, crypto service and database may be apart."""
LATE = timedelta(hours=1)
"""How much later than what it is about a record may be: an operation that died is taken up again by its next try."""
TAKEN_UP = timedelta(days=7)
"""The same where the version of a key tells which operation it was."""
SOON = timedelta(minutes=2)
"""The same where nothing else tells one from the next: a signature, which has no name of its own."""
CHECKING = timedelta(minutes=15)
"""How long before its record a boundary check may have begun."""


class KeyOperation(StrEnum):
    """What was done at the key server, as a difference says it of a key; uses: of what it was done to."""

    MADE = "was made"
    ENSURED = "was looked for, to be made if missing"
    ROTATED = "was rotated"
    RETIRED = "had its older versions retired"
    TRIMMED = "had its older versions deleted"
    CONFIGURED = "had its configuration changed"
    DOOMED = "was made deletable"
    DISABLED = "was disabled"
    ENABLED = "was enabled"
    DELETED = "was deleted"
    AUTHORITY = "was certified as an authority"
    READ = "was read"
    SERVER_CERTIFICATE = "signed a server certificate"
    SET_UP = "was set up"
    ADMINISTERED = "was administered"
    OTHER = "was used in no way that OpenKCM knows"
    FINGERPRINTED = "was fingerprinted"
    SIGNED = "signed"
    ENCRYPTED = "encrypted"
    DECRYPTED = "decrypted"
    REWRAPPED = "rewrapped"
    WRAPPED = "made and wrapped as a key"


USES = frozenset({KeyOperation.ENCRYPTED, KeyOperation.DECRYPTED, KeyOperation.REWRAPPED, KeyOperation.WRAPPED})


class KeyKind(StrEnum):
    """What kind of key it is about."""

    TENANT_KEY = "tenant key"
    ROOT_KEY = "root key"
    AUTHORITY = "authority's key"
    PAYLOAD_KEY = "payload key"
    PLATFORM = "platform"


class RequestOutcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    """Allowed, and without effect: a missing key, a wrong context."""
    REFUSED = "refused"
    """By a policy."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One response in the key server's log; `who` is a process of ours, `tenant:<id>`, or somebody else.

    `tenant_id` is empty where it is about no tenant. `context` is None where there is none, and where the log hides it.
    """

    at: datetime
    request_id: str
    act: KeyOperation
    key: str
    tenant_id: str
    who: str
    answer: RequestOutcome = RequestOutcome.DONE
    layer: KeyKind = KeyKind.PLATFORM
    version: int = 0
    """Of the key: what was made, the oldest that still decrypts, or the oldest that is kept."""
    serial: str = ""
    context: EncryptionContext | None = None
    count: int = 1
    correlation_id: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record of a tenant's stream; `at` is when it happened, which what a process delivers later says itself."""

    seq: int
    at: datetime
    name: AuditName
    subject: str
    outcome: str
    event_id: str
    correlation_id: str
    details: Mapping[str, str] = field(default_factory=dict)


class DiscrepancyKind(StrEnum):
    UNRECORDED_CHANGE = "unrecorded-change"
    UNRECORDED_USE = "unrecorded-use"
    MISSING_CHANGE = "missing-change"
    MISSING_USE = "missing-use"
    FOREIGN_TOKEN = "foreign-token"  # noqa: S105 - a word, not a secret
    UNKNOWN_IDENTITY = "unknown-identity"
    DENIED = "denied-attempt"
    UNKNOWN_REQUEST = "unknown-request"
    HIDDEN = "context-hidden"
    ROOT_TOKEN = "root-token"  # noqa: S105 - the same
    ADMINISTRATION = "administration"
    UNANSWERED = "request-without-response"
    UNASKED = "response-without-request"
    REPEATED = "line-repeated"
    BACKWARDS = "time-goes-backwards"
    UNREADABLE = "line-unreadable"
    BEGINS_LATE = "log-begins-late"


class Severity(StrEnum):
    NOTICE = "notice"
    """To know of; nothing is wrong."""
    DIFFERENCE = "difference"
    ALARM = "alarm"
    """Somebody did what nobody may."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """What one side has and the other lacks, or what must not be; `lacks` names the side without it."""

    kind: DiscrepancyKind
    severity: Severity
    at: datetime | None
    what: str
    tenant_id: str = ""
    lacks: str = ""
    who: str = ""
    reference: str = ""
    """The server's request id, or the number of the record in the stream."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is judged: from `begin` on, which the log reaches back to, until `end`, by which everything is on record."""

    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class ReconciliationInput:
    """Everything about one tenant. `checks`: when the boundary checks of any tenant were put on record."""

    tenant_id: str
    events: Sequence[ServerEvent]
    records: Sequence[AuditRecord]
    window: Window
    checks: Sequence[datetime] = ()


SERVER, STREAM = "key server", "audit stream"


def our_record(stored: StoredRecord) -> AuditRecord | None:
    """Return a record as it is needed here, None when it is none that this version knows.

    What a process of the crypto service delivers says in its details when it happened.
    """
    fields = fields_of(stored.record)
    stored_details = fields.get("details")
    details = {str(k): str(v) for k, v in stored_details.items()} if isinstance(stored_details, dict) else {}
    try:
        return AuditRecord(
            stored.seq,
            datetime.fromisoformat(details.get("at") or str(fields.get("time"))),
            AuditName(str(fields.get("name"))),
            str(fields.get("subject")),
            str(fields.get("outcome")),
            str(fields.get("event_id")),
            str(fields.get("correlation_id")),
            details,
        )
    except ValueError:
        return None


class Entry(NamedTuple):
    """One side of a pair: `about` is equal on both, and `source` is what a difference tells of."""

    about: Hashable
    at: datetime
    correlation_id: str
    source: ServerEvent | AuditRecord


def unmatched(
    events: Iterable[Entry], records: Iterable[Entry], early: timedelta, late: timedelta
) -> tuple[list[Entry], list[Entry]]:
    """Return what is left of each side when as many as possible are paired, one to one.

    A pair is about the same thing, and its record at most `early` before and `late` after its event. First those that
    one operation wrote; then in order, which leaves the fewest.
    """
    left: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    right: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in sorted(events, key=attrgetter("at")):
        left[entry.about].append(entry)
    for entry in sorted(records, key=attrgetter("at")):
        right[entry.about].append(entry)
    alone: tuple[list[Entry], list[Entry]] = [], []
    for about in left.keys() | right.keys():
        mine, theirs = _pair_operations(left[about], right[about], early, late)
        mine, theirs = _pair(mine, theirs, early, late)
        alone[0].extend(mine)
        alone[1].extend(theirs)
    return alone


def _pair_operations(
    events: list[Entry], records: list[Entry], early: timedelta, late: timedelta
) -> tuple[list[Entry], list[Entry]]:
    shared = {one.correlation_id for one in events} & {one.correlation_id for one in records} - {""}
    rest = (
        [one for one in events if one.correlation_id not in shared],
        [one for one in records if one.correlation_id not in shared],
    )
    by_event: defaultdict[str, list[Entry]] = defaultdict(list)
    by_record: defaultdict[str, list[Entry]] = defaultdict(list)
    for one in events:
        by_event[one.correlation_id].append(one)
    for one in records:
        by_record[one.correlation_id].append(one)
    for correlation_id in shared:
        mine, theirs = _pair(by_event[correlation_id], by_record[correlation_id], early, late)
        rest[0].extend(mine)
        rest[1].extend(theirs)
    return sorted(rest[0], key=attrgetter("at")), sorted(rest[1], key=attrgetter("at"))


def _pair(
    events: Sequence[Entry], records: Sequence[Entry], early: timedelta, late: timedelta
) -> tuple[list[Entry], list[Entry]]:
    alone: tuple[list[Entry], list[Entry]] = [], []
    mine = theirs = 0
    while mine < len(events) and theirs < len(records):
        after = records[theirs].at - events[mine].at
        if after > late:
            alone[0].append(events[mine])
            mine += 1
        elif after < -early:
            alone[1].append(records[theirs])
            theirs += 1
        else:
            mine, theirs = mine + 1, theirs + 1
    return [*alone[0], *events[mine:]], [*alone[1], *records[theirs:]]


def uncovered(these: Iterable[Entry], those: Iterable[Entry], before: timedelta, after: timedelta) -> list[Entry]:
    """Return those of `these` that none of `those` is about, from `before` before it to `after` after it."""
    times: defaultdict[Hashable, list[datetime]] = defaultdict(list)
    for entry in those:
        times[entry.about].append(entry.at)
    for found in times.values():
        found.sort()
    return [one for one in these if not near(times.get(one.about, ()), one.at, before, after)]


def near(times: Sequence[datetime], at: datetime, before: timedelta, after: timedelta) -> bool:
    """Return whether one of `times`, which are in order, lies between `before` before `at` and `after` after it."""
    first = bisect_left(times, at - before)
    return first < len(times) and times[first] <= at + after
