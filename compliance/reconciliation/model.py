"""Data model and matching of the reconciliation of the key server's audit log with the tenants' audit streams.

Pure: two sequences as input, discrepancies as output (docs/reconciliation.md describes what each proves). A *change* at
the key server has exactly one record. A *use* of a key needs a record that explains it. The crypto service's unwrapping
of service keys gives access to customers' data, so it is matched one to one like a change. Other uses decrypt no data
of customers and need only a recorded operation that was running. Times may differ, because the two sides have different
clocks and a record is written after its event.
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
"""Maximum clock skew between key server, crypto service and database."""
LATE = timedelta(hours=1)
"""Maximum delay of a record after its event: a retry completes an operation that failed after the event."""
TAKEN_UP = timedelta(days=7)
"""The same for changes that a key version identifies."""
SOON = timedelta(minutes=2)
"""The same for signatures, which have no identifier."""
CHECKING = timedelta(minutes=15)
"""Maximum time between the start of an isolation check and its record."""


class KeyOperation(StrEnum):
    """Operation at the key server, as the predicate of a text about a key or, for uses, about data."""

    MADE = "was created"
    ENSURED = "was requested, to be created if missing"
    ROTATED = "was rotated"
    RETIRED = "had its older versions retired"
    TRIMMED = "had its older versions deleted"
    CONFIGURED = "had its configuration changed"
    DELETION_ALLOWED = "was made deletable"
    DISABLED = "was disabled"
    ENABLED = "was enabled"
    DELETED = "was deleted"
    AUTHORITY = "was certified as a tenant CA"
    READ = "was read"
    SERVER_CERTIFICATE = "signed a server certificate"
    LOCK_RECORDED = "was recorded or removed as the lock of a tenant"
    SET_UP = "was set up"
    ADMINISTERED = "was administered"
    OTHER = "was used in an unknown way"
    FINGERPRINTED = "was fingerprinted"
    SIGNED = "signed"
    ENCRYPTED = "encrypted"
    DECRYPTED = "decrypted"
    REWRAPPED = "rewrapped"
    WRAPPED = "created and wrapped as a key"


USES = frozenset({KeyOperation.ENCRYPTED, KeyOperation.DECRYPTED, KeyOperation.REWRAPPED, KeyOperation.WRAPPED})


class KeyKind(StrEnum):
    """Kinds of keys at the key server."""

    TENANT_KEY = "tenant key"
    ROOT_KEY = "root key"
    AUTHORITY = "tenant CA key"
    PAYLOAD_KEY = "payload key"
    PLATFORM = "platform"


class RequestOutcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    """Allowed but without effect: a missing key or a wrong context."""
    REFUSED = "refused"
    """Rejected by a policy."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One response in the key server's log; `who` is a process of OpenKCM, `tenant:<id>`, or another identity.

    `tenant_id` is empty for an event without a tenant. `context` is None if none exists or the log hides it.
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
    """Key version: the created one, the oldest that still decrypts, or the oldest that is kept."""
    serial: str = ""
    context: EncryptionContext | None = None
    count: int = 1
    correlation_id: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record of a tenant's stream; `at` is the time of the event, not of its later delivery."""

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
    """Information; not an error."""
    DIFFERENCE = "difference"
    ALARM = "alarm"
    """An operation without a record, a record without its operation, or an operation that is not permitted."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """An entry that one side lacks, or a forbidden operation; `lacks` names the side without the entry."""

    kind: DiscrepancyKind
    severity: Severity
    at: datetime | None
    what: str
    tenant_id: str = ""
    lacks: str = ""
    who: str = ""
    reference: str = ""
    """The request id of the server, or the number of the record in the stream."""


@dataclass(frozen=True, slots=True)
class Window:
    """The compared period: the log starts before `begin`, and all events until `end` are recorded."""

    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class ReconciliationInput:
    """Events and records of one tenant. `checks`: times of the records of all tenants' isolation checks.

    `holds_root_key`: the tenant uses a customer's root key, and no record of this change needs to exist.
    """

    tenant_id: str
    events: Sequence[ServerEvent]
    records: Sequence[AuditRecord]
    window: Window
    checks: Sequence[datetime] = ()
    holds_root_key: bool = False


SERVER, STREAM = "key server", "audit stream"


def our_record(stored: StoredRecord) -> AuditRecord | None:
    """Return the record for the comparison, None if this version does not know it.

    A record of an unwrap, which the crypto service delivers later, contains the time of the event in its details.
    """
    fields = fields_of(stored.record)
    stored_details = fields.get("details")
    details = {str(k): str(v) for k, v in stored_details.items()} if isinstance(stored_details, dict) else {}
    try:
        name = AuditName(str(fields.get("name")))
        # In the record of a failure, `at` names the step that failed.
        delivered = details.get("at", "") if name is AuditName.SERVICE_KEY_OPENED else ""
        return AuditRecord(
            stored.seq,
            datetime.fromisoformat(delivered or str(fields.get("time"))),
            name,
            str(fields.get("subject")),
            str(fields.get("outcome")),
            str(fields.get("event_id")),
            str(fields.get("correlation_id")),
            details,
        )
    except ValueError:
        return None


class Entry(NamedTuple):
    """One side of a pair: `about` is equal on both sides, and `source` is the subject of a discrepancy."""

    about: Hashable
    at: datetime
    correlation_id: str
    source: ServerEvent | AuditRecord


def unmatched(
    events: Iterable[Entry], records: Iterable[Entry], early: timedelta, late: timedelta
) -> tuple[list[Entry], list[Entry]]:
    """Return the unpaired entries of each side after a maximum one-to-one pairing.

    Both entries of a pair have the same `about`, and the record is at most `early` before and `late` after its event.
    Entries of the same operation are paired first, then the others in order of time, which leaves the fewest.
    """
    left: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    right: defaultdict[Hashable, list[Entry]] = defaultdict(list)
    for entry in sorted(events, key=attrgetter("at")):
        left[entry.about].append(entry)
    for entry in sorted(records, key=attrgetter("at")):
        right[entry.about].append(entry)
    alone: tuple[list[Entry], list[Entry]] = [], []
    for about in left.keys() | right.keys():
        unpaired_events, unpaired_records = _pair_operations(left[about], right[about], early, late)
        unpaired_events, unpaired_records = _pair(unpaired_events, unpaired_records, early, late)
        alone[0].extend(unpaired_events)
        alone[1].extend(unpaired_records)
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
        unpaired_events, unpaired_records = _pair(by_event[correlation_id], by_record[correlation_id], early, late)
        rest[0].extend(unpaired_events)
        rest[1].extend(unpaired_records)
    return sorted(rest[0], key=attrgetter("at")), sorted(rest[1], key=attrgetter("at"))


def _pair(
    events: Sequence[Entry], records: Sequence[Entry], early: timedelta, late: timedelta
) -> tuple[list[Entry], list[Entry]]:
    alone: tuple[list[Entry], list[Entry]] = [], []
    event = record = 0
    while event < len(events) and record < len(records):
        after = records[record].at - events[event].at
        if after > late:
            alone[0].append(events[event])
            event += 1
        elif after < -early:
            alone[1].append(records[record])
            record += 1
        else:
            event, record = event + 1, record + 1
    return [*alone[0], *events[event:]], [*alone[1], *records[record:]]


def uncovered(these: Iterable[Entry], those: Iterable[Entry], before: timedelta, after: timedelta) -> list[Entry]:
    """Return the entries of `these` that no entry of `those` matches, from `before` before to `after` after."""
    times: defaultdict[Hashable, list[datetime]] = defaultdict(list)
    for entry in those:
        times[entry.about].append(entry.at)
    for found in times.values():
        found.sort()
    return [one for one in these if not near(times.get(one.about, ()), one.at, before, after)]


def near(times: Sequence[datetime], at: datetime, before: timedelta, after: timedelta) -> bool:
    """Return whether one of the sorted `times` is between `before` before `at` and `after` after it."""
    first = bisect_left(times, at - before)
    return first < len(times) and times[first] <= at + after
