"""What of the key server's log and of a tenant's stream is about the same thing, and what of either stands alone.

The rules of double entry (docs/double-entry.md), over the pairing of `double_entry`. Whatever no rule explains is a
difference: a new way to use a key has to be told here before it passes.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from compliance.reconciliation.access_rules import (
    CRYPTO,
    WORKER,
    check_principal,
    difference,
    hidden_contexts,
    is_hidden,
    told,
)
from compliance.reconciliation.model import (
    CHECKING,
    LATE,
    SERVER,
    SLACK,
    SOON,
    STREAM,
    TAKEN_UP,
    USES,
    AuditRecord,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    KeyKind,
    KeyOperation,
    ReconciliationInput,
    RequestOutcome,
    ServerEvent,
    Severity,
    near,
    uncovered,
    unmatched,
)
from core import names as ids
from core.keys.encryption_context import Purpose
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import RESERVED_PREFIX

RELEVANT = frozenset(
    {
        AuditName.TENANT_KEY_CREATED,
        AuditName.PAYLOAD_KEY_CREATED,
        AuditName.TENANT_KEY_ROTATED,
        AuditName.TENANT_KEY_RETIRED,
        AuditName.TENANT_KEY_TRIMMED,
        AuditName.KEY_DESTROYED,
        AuditName.PROVISION_ROLLED_BACK,
        AuditName.AUTHORITY_CREATED,
        AuditName.AUTHORITY_ROLL_INTENDED,
        AuditName.AUTHORITY_ROLLED,
        AuditName.SERVICE_CERTIFICATE_ISSUED,
        AuditName.REVOCATION_LIST_PUBLISHED,
        AuditName.SERVICE_CONNECT_INTENDED,
        AuditName.SERVICE_KEY_CREATED,
        AuditName.SERVICE_KEY_OPENED,
        AuditName.BOUNDARY_CHECKED,
        AuditName.KEYS_ROTATED,
        AuditName.ROOT_KEY_CHANGED,
    }
)
"""Records that are about something at the key server, or explain it."""
LONG_RUNNING = frozenset({AuditName.KEYS_ROTATED, AuditName.ROOT_KEY_CHANGED, AuditName.SERVICE_KEY_CREATED})
"""Of those, what explains for longer than `LATE`."""

_SIGNATURES = frozenset({AuditName.SERVICE_CERTIFICATE_ISSUED, AuditName.REVOCATION_LIST_PUBLISHED})
PROBE = "boundary-"
"""How the names of services begin that boundary checks make up, or connect for themselves."""
_ENSURES = frozenset({KeyOperation.MADE, KeyOperation.ENSURED})
_VERSIONED = {
    AuditName.TENANT_KEY_ROTATED: (KeyOperation.ROTATED, "after"),
    AuditName.TENANT_KEY_RETIRED: (KeyOperation.RETIRED, "oldest"),
    AuditName.TENANT_KEY_TRIMMED: (KeyOperation.TRIMMED, "oldest"),
}
"""Record of a success → what was done with the tenant key, and which of the record's details is the version."""


def reconcile(sides: ReconciliationInput) -> tuple[Discrepancy, ...]:
    """Return the differences about one tenant, in the order of time; what lies outside the window is not judged."""
    found = _Judge(sides).differences()
    return tuple(sorted(found, key=lambda one: (one.at or sides.window.begin, one.kind, one.what)))


@dataclass(frozen=True)
class _Judge:
    sides: ReconciliationInput

    def differences(self) -> Iterator[Discrepancy]:
        for event in filter(self._judged, self.sides.events):
            wrong = check_principal(event, checked=self._checked(event.at))
            if wrong is not None:
                yield wrong
        yield from hidden_contexts(self.sides.events, self.sides.window)
        yield from self._unique_changes()
        yield from self._repeatable_changes()
        yield from self._signatures()
        yield from self._openings()
        yield from self._other_uses()

    # ── changes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _unique_changes(self) -> Iterator[Discrepancy]:
        """Hold changes that happen once, by version or serial, against their records, one to one."""
        events = [_entry(event, about) for event in self._done if (about := self._unique(event)) is not None]
        records = [_entry(record, about) for record in self.sides.records if (about := _said(record)) is not None]
        yield from self._tell(
            *unmatched(events, records, SLACK, TAKEN_UP),
            DiscrepancyKind.UNRECORDED_CHANGE,
            DiscrepancyKind.MISSING_CHANGE,
        )

    def _unique(self, event: ServerEvent) -> Hashable | None:
        """Return what `_said` returns for the record of such a change."""
        if event.act is KeyOperation.DELETED:
            return event.act, event.key
        if event.act is KeyOperation.AUTHORITY:
            return event.act, event.serial
        if event.layer is KeyKind.TENANT_KEY and event.act in {
            KeyOperation.ROTATED,
            KeyOperation.RETIRED,
            KeyOperation.TRIMMED,
        }:
            return event.act, event.key, str(event.version)
        return None

    def _repeatable_changes(self) -> Iterator[Discrepancy]:
        """Hold changes that a step may make again, when it is tried again, each against any record of that step."""
        own, stepped = set(self._own_keys), list(self._steps())
        events = [_entry(event, _step(event)) for event in self._done if event.key in own]
        changes = [one for one in events if isinstance(one.source, ServerEvent) and _is_repeatable(one.source)]
        yield from self._tell(
            uncovered(changes, stepped, LATE, LATE),
            (),
            DiscrepancyKind.UNRECORDED_CHANGE,
            DiscrepancyKind.MISSING_CHANGE,
        )
        # What was only intended need not have come so far, and a deletion is told of by itself.
        done = [
            entry
            for entry in stepped
            if isinstance(entry.source, AuditRecord)
            and entry.source.outcome == "success"
            and entry.source.name is not AuditName.KEY_DESTROYED
        ]
        yield from self._tell(
            (), uncovered(done, events, LATE, SLACK), DiscrepancyKind.UNRECORDED_CHANGE, DiscrepancyKind.MISSING_CHANGE
        )

    def _steps(self) -> Iterator[Entry]:
        """Yield what the steps on record do at the key server; see `_step`."""
        tenant_key, payload_key, authority = self._own_keys
        for record in self.sides.records:
            version = record.details.get("version", "1")
            match record.name:
                case AuditName.TENANT_KEY_CREATED:
                    yield _entry(record, (KeyOperation.ENSURED, tenant_key, ""))
                case AuditName.PAYLOAD_KEY_CREATED:
                    yield _entry(record, (KeyOperation.ENSURED, payload_key, ""))
                case AuditName.AUTHORITY_CREATED | AuditName.AUTHORITY_ROLL_INTENDED if version != "1":
                    yield _entry(record, (KeyOperation.ROTATED, authority, version))
                case AuditName.AUTHORITY_CREATED:
                    yield _entry(record, (KeyOperation.ENSURED, authority, ""))
                case AuditName.PROVISION_ROLLED_BACK if record.subject in self._own_keys:
                    yield _entry(record, (KeyOperation.DISABLED, record.subject, ""))
                case AuditName.KEY_DESTROYED if record.subject in self._own_keys:
                    yield _entry(record, (KeyOperation.DOOMED, record.subject, ""))

    def _signatures(self) -> Iterator[Discrepancy]:
        """Hold signatures of the authority against certificates and lists, one to one.

        Proofs and attacks sign what nobody keeps, and so does a step that came too late and is tried again.
        """
        signed = [_entry(event, KeyOperation.SIGNED) for event in self._done if event.act is KeyOperation.SIGNED]
        kept = [
            _entry(record, KeyOperation.SIGNED)
            for record in self.sides.records
            if record.name in _SIGNATURES and record.outcome == "success"
        ]
        events, records = unmatched(signed, kept, SLACK, SOON)
        working = {entry.correlation_id for entry in kept} - {""}
        rolls = self._spans(AuditName.AUTHORITY_ROLL_INTENDED, AuditName.AUTHORITY_ROLLED)
        alone = (
            entry
            for entry in events
            if entry.correlation_id not in working and not self._attacked(entry) and not _during(rolls, entry.at)
        )
        yield from self._tell(alone, records, DiscrepancyKind.UNRECORDED_CHANGE, DiscrepancyKind.MISSING_CHANGE)

    # ── uses ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _openings(self) -> Iterator[Discrepancy]:
        """Hold what opened a service key against the crypto service's own records of it, one to one.

        Its outer layer is opened to open the inner one, by the crypto service and for nothing else.
        """
        tried = [
            event
            for event in self.sides.events
            if self._is_opening(event) and event.answer is not RequestOutcome.REFUSED
        ]
        inner = [event for event in tried if event.layer is KeyKind.TENANT_KEY]
        outer = [event for event in tried if event.layer is KeyKind.ROOT_KEY and event.answer is RequestOutcome.DONE]
        opened = [event for event in inner if event.answer is RequestOutcome.DONE]
        records = [
            _entry(one, _key_version(one))
            for one in self.sides.records
            if one.name is AuditName.SERVICE_KEY_OPENED and not self._is_attackers(_key_version(one))
        ]
        alone = unmatched(_each(opened), records, SLACK, SLACK)
        yield from self._tell(*alone, DiscrepancyKind.UNRECORDED_USE, DiscrepancyKind.MISSING_USE)
        unfollowed, _ = unmatched(_each(outer), _each(inner), SLACK, SLACK)
        yield from self._tell(unfollowed, (), DiscrepancyKind.UNRECORDED_USE, DiscrepancyKind.MISSING_USE)

    def _other_uses(self) -> Iterator[Discrepancy]:
        """Tell of uses without an operation that explains them, and of operations that used nothing."""
        for event in filter(self._judged, self._done):
            is_use = event.act in USES and event.layer in {KeyKind.TENANT_KEY, KeyKind.ROOT_KEY}
            if is_use and not is_hidden(event) and not self._is_opening(event) and not self._is_explained(event):
                yield difference(event, DiscrepancyKind.UNRECORDED_USE, Severity.ALARM, told(event), STREAM)
        made = [
            _entry(one, _key_version(one)) for one in self.sides.records if one.name is AuditName.SERVICE_KEY_CREATED
        ]
        wrapped = _each(
            event for event in self._done if event.act is KeyOperation.WRAPPED and event.context is not None
        )
        checks = [_entry(one, Purpose.BOUNDARY) for one in self.sides.records if one.name is AuditName.BOUNDARY_CHECKED]
        attacks = [_entry(one, Purpose.BOUNDARY) for one in self._done if self._purpose(one) is Purpose.BOUNDARY]
        alone = [*uncovered(made, wrapped, LATE, SLACK), *uncovered(checks, attacks, CHECKING, SLACK)]
        yield from self._tell((), alone, DiscrepancyKind.UNRECORDED_USE, DiscrepancyKind.MISSING_USE)

    def _is_opening(self, event: ServerEvent) -> bool:
        """Whether `_openings` judges it: nobody but the crypto service decrypts what lies under the tenant key."""
        by_whom = event.layer is KeyKind.TENANT_KEY or (event.layer is KeyKind.ROOT_KEY and event.who == CRYPTO)
        by_whom = by_whom and not self._is_attackers(_place(event))
        return by_whom and event.act is KeyOperation.DECRYPTED and self._purpose(event) is Purpose.SERVICE_KEY

    def _is_attackers(self, version: tuple[str, str]) -> bool:
        """Whether a service key is only there to be attacked: its service's name says so, and it is no customer's."""
        is_probe = version[0].startswith(PROBE)
        return is_probe and (self.sides.tenant_id.startswith(RESERVED_PREFIX) or version not in self._made)

    def _is_explained(self, event: ServerEvent) -> bool:
        # An attack uses nothing that is a customer's: what `_openings` judges is no part of one.
        if self._checked(event.at):
            return True
        match self._purpose(event):
            case Purpose.VERIFY:
                return self._is_proof(event)
            case Purpose.CREDENTIALS:
                # How often they are read depends on what processes keep in memory, and is not counted.
                return any(record.name is AuditName.ROOT_KEY_CHANGED for record in self.sides.records)
            case Purpose.SERVICE_KEY if event.who != CRYPTO:
                made = self._made.get(_place(event), ())
                return near(made, event.at, LATE, LATE) or _during(self._rewraps, event.at)
        return False

    def _is_proof(self, event: ServerEvent) -> bool:
        """Whether it shows that a key works, to an operation on record; nothing of a customer's lies under it."""
        if event.layer is KeyKind.TENANT_KEY:
            return near(self._operations.get(_place(event)[1], ()), event.at, LATE, LATE)
        # By the canary's name the platform's own root key is tried before a tenant comes back to it.
        return event.who == WORKER and event.tenant_id == ids.CANARY_TENANT_ID

    def _purpose(self, event: ServerEvent) -> Purpose | None:
        """Return what a use was for; None where its context is of another place than the key's.

        An attack names other places on purpose; nothing but an attack's own text lies under its purpose anywhere.
        """
        context = event.context
        if context is None:
            return None
        is_own = (context.tenant_id, context.l2_key) == (self.sides.tenant_id, self._own_keys[0])
        return context.purpose if is_own or context.purpose is Purpose.BOUNDARY else None

    # ── what the stream says was going on ────────────────────────────────────────────────────────────────────────

    @cached_property
    def _own_keys(self) -> tuple[str, str, str]:
        tenant_id = self.sides.tenant_id
        return ids.l2_key(tenant_id), ids.payload_key(tenant_id), ids.ca_key(tenant_id)

    @cached_property
    def _done(self) -> Sequence[ServerEvent]:
        return [event for event in self.sides.events if event.answer is RequestOutcome.DONE]

    @cached_property
    def _checks(self) -> Sequence[datetime]:
        own = (record.at for record in self.sides.records if record.name is AuditName.BOUNDARY_CHECKED)
        return sorted([*own, *self.sides.checks])

    def _checked(self, at: datetime) -> bool:
        return near(self._checks, at, SLACK, CHECKING)

    def _attacked(self, signature: Entry) -> bool:
        """Whether a signature was made for an attack: by when it was, and by whose work where the log tells that."""
        is_its_work = not self._is_told_whose or ids.is_boundary_check(signature.correlation_id)
        return is_its_work and self._checked(signature.at)

    @cached_property
    def _is_told_whose(self) -> bool:
        """Whether the key server's log has correlation ids at all; one from before they were sent has none."""
        return any(event.correlation_id for event in self.sides.events)

    @cached_property
    def _operations(self) -> Mapping[str, Sequence[datetime]]:
        """When each operation put something on record; the id of its records begins with its own."""
        found: defaultdict[str, list[datetime]] = defaultdict(list)
        for record in self.sides.records:
            found[record.event_id.partition(f"/{record.name}/")[0]].append(record.at)
        return {operation: sorted(times) for operation, times in found.items()}

    @cached_property
    def _made(self) -> Mapping[tuple[str, str], Sequence[datetime]]:
        """When a version of a service key was put on record, or about to be made for a service that is new."""
        found: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
        for record in self.sides.records:
            if record.name is AuditName.SERVICE_KEY_CREATED:
                found[_key_version(record)].append(record.at)
            elif record.name is AuditName.SERVICE_CONNECT_INTENDED:
                found[record.subject, "1"].append(record.at)
        return {version: sorted(times) for version, times in found.items()}

    @cached_property
    def _rewraps(self) -> Sequence[tuple[datetime, datetime]]:
        """When service keys were wrapped anew: in a rotation, or a change of the root key."""
        return [*self._spans(AuditName.KEYS_ROTATED), *self._spans(AuditName.ROOT_KEY_CHANGED)]

    def _spans(self, begun: AuditName, ended: AuditName | None = None) -> Sequence[tuple[datetime, datetime]]:
        """Return from when to when operations were under way; one without an end on record still is."""
        spans: dict[str, tuple[datetime, datetime]] = {}
        for record in self.sides.records:
            if record.name is begun and record.outcome == "intended":
                spans.setdefault(record.correlation_id, (record.at, self.sides.window.end))
            elif record.name is (ended or begun) and record.correlation_id in spans:
                spans[record.correlation_id] = spans[record.correlation_id][0], record.at
        return list(spans.values())

    # ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _judged(self, event: ServerEvent) -> bool:
        return self.sides.window.begin <= event.at <= self.sides.window.end

    def _tell(
        self, events: Iterable[Entry], records: Iterable[Entry], unrecorded: DiscrepancyKind, missing: DiscrepancyKind
    ) -> Iterator[Discrepancy]:
        window = self.sides.window
        for entry in events:
            if isinstance(entry.source, ServerEvent) and self._judged(entry.source):
                yield difference(entry.source, unrecorded, Severity.ALARM, told(entry.source), STREAM)
        for entry in records:
            # What a record near the log's beginning is about may lie before it.
            if isinstance(entry.source, AuditRecord) and window.begin + SLACK <= entry.at <= window.end:
                yield _missing(self.sides.tenant_id, entry.source, missing)


def _said(record: AuditRecord) -> Hashable | None:
    """Return which change that happens once a record is about."""
    if record.outcome != "success":
        return None
    if record.name in _VERSIONED:
        act, version = _VERSIONED[record.name]
        return act, record.subject, record.details.get(version, "")
    if record.name is AuditName.KEY_DESTROYED and "fingerprint" in record.details:
        return KeyOperation.DELETED, record.subject
    return (KeyOperation.AUTHORITY, record.subject) if record.name is AuditName.AUTHORITY_CREATED else None


def _step(event: ServerEvent) -> Hashable:
    """Return which step makes such a change; a key that is enabled again is one that was to be there."""
    act = KeyOperation.ENSURED if event.act in _ENSURES or event.act is KeyOperation.ENABLED else event.act
    return act, event.key, str(event.version) if act is KeyOperation.ROTATED else ""


def _is_repeatable(event: ServerEvent) -> bool:
    if event.act in {KeyOperation.ROTATED, KeyOperation.RETIRED, KeyOperation.TRIMMED}:
        return event.layer is not KeyKind.TENANT_KEY
    return event.act in {
        KeyOperation.MADE,
        KeyOperation.ENABLED,
        KeyOperation.DISABLED,
        KeyOperation.DOOMED,
        KeyOperation.CONFIGURED,
    }


def _key_version(record: AuditRecord) -> tuple[str, str]:
    """Return the service and the version of its key that a record is about."""
    return record.subject, record.details.get("version", "")


def _each(events: Iterable[ServerEvent]) -> list[Entry]:
    """Return an entry for each time that something under a service key's context was done."""
    return [_entry(event, _place(event)) for event in events for _ in range(event.count)]


def _place(event: ServerEvent) -> tuple[str, str]:
    """Return the service that a use was about, and the version of its key or what else it names."""
    context = event.context
    return ("", "") if context is None else (context.service, context.object_id)


def _entry(source: ServerEvent | AuditRecord, about: Hashable) -> Entry:
    return Entry(about, source.at, source.correlation_id, source)


def _during(spans: Sequence[tuple[datetime, datetime]], at: datetime) -> bool:
    return any(begin - SLACK <= at <= end + SLACK for begin, end in spans)


def _missing(tenant_id: str, record: AuditRecord, kind: DiscrepancyKind) -> Discrepancy:
    what = f"record {record.seq} says {record.name} of {record.subject}, of which the key server knows nothing"
    return Discrepancy(kind, Severity.ALARM, record.at, what, tenant_id, SERVER, reference=str(record.seq))
