"""Rules of the reconciliation (docs/reconciliation.md): which events and records match, and which are discrepancies.

They use the pairing of `model`. An event that no rule explains is a discrepancy, so each new use of a key needs a rule.
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
    describe,
    difference,
    hidden_contexts,
    is_hidden,
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
from core.keys.root_keys import RootKeyMode
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
"""Records that match or explain an event at the key server."""
LONG_RUNNING = frozenset({AuditName.KEYS_ROTATED, AuditName.ROOT_KEY_CHANGED, AuditName.SERVICE_KEY_CREATED})
"""Records that explain events for longer than `LATE`."""

_SIGNATURES = frozenset({AuditName.SERVICE_CERTIFICATE_ISSUED, AuditName.REVOCATION_LIST_PUBLISHED})
PROBE = "boundary-"
"""Prefix of the services that isolation checks invent or connect."""
_ENSURES = frozenset({KeyOperation.MADE, KeyOperation.ENSURED})
_VERSIONED = {
    AuditName.TENANT_KEY_ROTATED: (KeyOperation.ROTATED, "after"),
    AuditName.TENANT_KEY_RETIRED: (KeyOperation.RETIRED, "oldest"),
    AuditName.TENANT_KEY_TRIMMED: (KeyOperation.TRIMMED, "oldest"),
}
"""Record of a success → operation on the tenant key, and the detail of the record with the version."""


def reconcile(sides: ReconciliationInput) -> tuple[Discrepancy, ...]:
    """Return the discrepancies of one tenant in order of time; entries outside of the window are not compared."""
    found = _TenantComparison(sides).discrepancies()
    return tuple(sorted(found, key=lambda one: (one.at or sides.window.begin, one.kind, one.what)))


@dataclass(frozen=True)
class _TenantComparison:
    sides: ReconciliationInput

    def discrepancies(self) -> Iterator[Discrepancy]:
        for event in filter(self._in_window, self.sides.events):
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
        """Match changes with a unique version or serial to their records, one to one."""
        events = [_entry(event, about) for event in self._done if (about := self._unique(event)) is not None]
        records = [_entry(record, about) for record in self.sides.records if (about := _recorded(record)) is not None]
        yield from self._discrepancies(
            *unmatched(events, records, SLACK, TAKEN_UP),
            DiscrepancyKind.UNRECORDED_CHANGE,
            DiscrepancyKind.MISSING_CHANGE,
        )

    def _unique(self, event: ServerEvent) -> Hashable | None:
        """Return the value that `_recorded` returns for the record of the change, None for other events."""
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
        """Match changes that a retried step can repeat, each to any record of that step."""
        own, stepped = set(self._own_keys), list(self._steps())
        events = [_entry(event, _step(event)) for event in self._done if event.key in own]
        changes = [one for one in events if isinstance(one.source, ServerEvent) and _is_repeatable(one.source)]
        yield from self._discrepancies(
            uncovered(changes, stepped, LATE, LATE),
            (),
            DiscrepancyKind.UNRECORDED_CHANGE,
            DiscrepancyKind.MISSING_CHANGE,
        )
        # An intended step may have stopped before its change, and a deletion is matched separately.
        done = [
            entry
            for entry in stepped
            if isinstance(entry.source, AuditRecord)
            and entry.source.outcome == "success"
            and entry.source.name is not AuditName.KEY_DESTROYED
        ]
        yield from self._discrepancies(
            (), uncovered(done, events, LATE, SLACK), DiscrepancyKind.UNRECORDED_CHANGE, DiscrepancyKind.MISSING_CHANGE
        )

    def _steps(self) -> Iterator[Entry]:
        """Yield the changes of the recorded steps at the key server; see `_step`."""
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
                    yield _entry(record, (KeyOperation.DELETION_ALLOWED, record.subject, ""))

    def _signatures(self) -> Iterator[Discrepancy]:
        """Match signatures of the tenant CA to certificates and CRLs, one to one.

        Verifications, isolation checks and retried steps sign certificates that are not stored.
        """
        signed = [_entry(event, KeyOperation.SIGNED) for event in self._done if event.act is KeyOperation.SIGNED]
        stored = [
            _entry(record, KeyOperation.SIGNED)
            for record in self.sides.records
            if record.name in _SIGNATURES and record.outcome == "success"
        ]
        events, records = unmatched(signed, stored, SLACK, SOON)
        working = {entry.correlation_id for entry in stored} - {""}
        rolls = [
            (begin, min(end, begin + TAKEN_UP))
            for begin, end in self._spans(AuditName.AUTHORITY_ROLL_INTENDED, AuditName.AUTHORITY_ROLLED)
        ]
        unexplained = (
            entry
            for entry in events
            if entry.correlation_id not in working and not self._attacked(entry) and not _during(rolls, entry.at)
        )
        yield from self._discrepancies(
            unexplained, records, DiscrepancyKind.UNRECORDED_CHANGE, DiscrepancyKind.MISSING_CHANGE
        )

    # ── uses ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _openings(self) -> Iterator[Discrepancy]:
        """Match unwraps of service keys to the records of the crypto service, one to one.

        The crypto service decrypts the outer layer only to decrypt the inner layer next.
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
        yield from self._discrepancies(*alone, DiscrepancyKind.UNRECORDED_USE, DiscrepancyKind.MISSING_USE)
        unfollowed, _ = unmatched(_each(outer), _each(inner), SLACK, SLACK)
        yield from self._discrepancies(unfollowed, (), DiscrepancyKind.UNRECORDED_USE, DiscrepancyKind.MISSING_USE)

    def _other_uses(self) -> Iterator[Discrepancy]:
        """Yield discrepancies for uses without an explaining operation, and for operations without a use."""
        for event in filter(self._in_window, self._done):
            is_use = event.act in USES and event.layer in {KeyKind.TENANT_KEY, KeyKind.ROOT_KEY}
            if is_use and not is_hidden(event) and not self._is_opening(event) and not self._is_explained(event):
                yield difference(event, DiscrepancyKind.UNRECORDED_USE, Severity.ALARM, describe(event), STREAM)
        made = [
            _entry(one, _key_version(one)) for one in self.sides.records if one.name is AuditName.SERVICE_KEY_CREATED
        ]
        wrapped = _each(
            event for event in self._done if event.act is KeyOperation.WRAPPED and event.context is not None
        )
        checks = [_entry(one, _proof(one)) for one in self.sides.records if one.name is AuditName.BOUNDARY_CHECKED]
        alone = [*uncovered(made, wrapped, LATE, SLACK), *uncovered(checks, self._attacks(), CHECKING, SLACK)]
        yield from self._discrepancies((), alone, DiscrepancyKind.UNRECORDED_USE, DiscrepancyKind.MISSING_USE)

    def _attacks(self) -> Iterator[Entry]:
        """Yield the events of isolation checks at the key server; see `_proof`."""
        for event in self._done:
            if self._purpose(event) is Purpose.BOUNDARY:
                yield _entry(event, Purpose.BOUNDARY)
            elif event.act is KeyOperation.READ and (event.key, event.who) == (self._own_keys[0], WORKER):
                yield _entry(event, KeyOperation.READ)

    def _is_opening(self, event: ServerEvent) -> bool:
        """Return whether `_openings` matches the event: only the crypto service decrypts with the tenant key."""
        by_whom = event.layer is KeyKind.TENANT_KEY or (event.layer is KeyKind.ROOT_KEY and event.who == CRYPTO)
        by_whom = by_whom and not self._is_attackers(_place(event))
        return by_whom and event.act is KeyOperation.DECRYPTED and self._purpose(event) is Purpose.SERVICE_KEY

    def _is_attackers(self, version: tuple[str, str]) -> bool:
        """Return whether a service key exists only for isolation checks, by the name of its service."""
        is_probe = version[0].startswith(PROBE)
        return is_probe and (self.sides.tenant_id.startswith(RESERVED_PREFIX) or version not in self._made)

    def _is_explained(self, event: ServerEvent) -> bool:
        # An isolation check uses no data of customers; `_openings` matches all uses of service keys.
        if self._checked(event.at):
            return True
        match self._purpose(event):
            case Purpose.VERIFY:
                return self._is_proof(event)
            case Purpose.CREDENTIALS:
                # The number of reads depends on the caches of the processes, so it is not matched.
                return _during(self._credentials, event.at)
            case Purpose.SERVICE_KEY if event.who != CRYPTO:
                made = self._made.get(_place(event), ())
                return near(made, event.at, LATE, LATE) or _during(self._rewraps, event.at)
        return False

    def _is_proof(self, event: ServerEvent) -> bool:
        """Return whether the use verifies a key for a recorded operation; such a use decrypts no data of customers."""
        if event.layer is KeyKind.TENANT_KEY:
            return near(self._operations.get(_place(event)[1], ()), event.at, LATE, LATE)
        # A change back to the platform's root key tests that key in the context of the canary tenant.
        return event.who == WORKER and event.tenant_id == ids.CANARY_TENANT_ID

    def _purpose(self, event: ServerEvent) -> Purpose | None:
        """Return the purpose of a use; None if its context does not belong to the key.

        Isolation checks use contexts of other tenants on purpose; their purpose never occurs with data of customers.
        """
        context = event.context
        if context is None:
            return None
        is_own = (context.tenant_id, context.l2_key) == (self.sides.tenant_id, self._own_keys[0])
        return context.purpose if is_own or context.purpose is Purpose.BOUNDARY else None

    # ── operations in the stream ─────────────────────────────────────────────────────────────────────────────────

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
        """Return whether a signature belongs to an isolation check, by its time and its correlation id, if any."""
        is_check = not self._has_correlation_ids or ids.is_boundary_check(signature.correlation_id)
        return is_check and self._checked(signature.at)

    @cached_property
    def _has_correlation_ids(self) -> bool:
        """Whether the key server's log contains correlation ids; logs of old releases do not."""
        return any(event.correlation_id for event in self.sides.events)

    @cached_property
    def _operations(self) -> Mapping[str, Sequence[datetime]]:
        """Times of the records of each operation."""
        found: defaultdict[str, list[datetime]] = defaultdict(list)
        for record in self.sides.records:
            found[_operation(record)].append(record.at)
        return {operation: sorted(times) for operation, times in found.items()}

    @cached_property
    def _made(self) -> Mapping[tuple[str, str], Sequence[datetime]]:
        """Times at which the creation of a service key version was recorded or, for a new service, intended."""
        found: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
        for record in self.sides.records:
            if record.name is AuditName.SERVICE_KEY_CREATED:
                found[_key_version(record)].append(record.at)
            elif record.name is AuditName.SERVICE_CONNECT_INTENDED:
                found[record.subject, "1"].append(record.at)
        return {version: sorted(times) for version, times in found.items()}

    @cached_property
    def _rewraps(self) -> Sequence[tuple[datetime, datetime]]:
        """Periods in which service keys were re-wrapped: rotations and root key changes."""
        return [*self._spans(AuditName.KEYS_ROTATED), *self._spans(AuditName.ROOT_KEY_CHANGED)]

    @cached_property
    def _credentials(self) -> Sequence[tuple[datetime, datetime]]:
        """Periods with credentials of a customer's root key: its use, and each change of the root key."""
        window = self.sides.window
        switches = [
            record
            for record in self.sides.records
            if record.name is AuditName.ROOT_KEY_CHANGED and record.outcome == "success"
        ]
        destroyed = (
            record.at for record in self.sides.records if _recorded(record) == (KeyOperation.DELETED, self._own_keys[0])
        )
        end = next(destroyed, window.end)
        ends = [*(record.at for record in switches[1:]), end]
        in_use = [
            (record.at, until)
            for record, until in zip(switches, ends, strict=False)
            if _is_customers(record.details.get("after", ""))
        ]
        # Before the first recorded change a customer's root key is in use only if an archived change began its use.
        if switches and _is_customers(switches[0].details.get("before", RootKeyMode.PLATFORM)):
            in_use.append((window.begin, switches[0].at))
        elif not switches and self.sides.holds_root_key:
            in_use.append((window.begin, end))
        return [*self._spans(AuditName.ROOT_KEY_CHANGED), *in_use]

    def _spans(self, begun: AuditName, ended: AuditName | None = None) -> Sequence[tuple[datetime, datetime]]:
        """Return the periods of operations; the last one without a recorded end is still running.

        A tenant has one operation of a kind at a time. So the next one ends a former one that was lost.
        """
        begins: dict[str, datetime] = {}
        ends: dict[str, datetime] = {}
        for record in self.sides.records:
            if record.name is begun and record.outcome == "intended":
                begins[_operation(record)] = record.at
            elif record.name is (ended or begun):
                ends[_operation(record)] = record.at
                if record.outcome == "success":
                    begins.setdefault(
                        _operation(record), self.sides.window.begin
                    )  # the record of the begin is archived
        following = [*list(begins.values())[1:], self.sides.window.end]
        return [
            (at, ends.get(operation, next_at))
            for (operation, at), next_at in zip(begins.items(), following, strict=False)
        ]

    # ── discrepancies ────────────────────────────────────────────────────────────────────────────────────────────

    def _in_window(self, event: ServerEvent) -> bool:
        return self.sides.window.begin <= event.at <= self.sides.window.end

    def _discrepancies(
        self, events: Iterable[Entry], records: Iterable[Entry], unrecorded: DiscrepancyKind, missing: DiscrepancyKind
    ) -> Iterator[Discrepancy]:
        window = self.sides.window
        for entry in events:
            if isinstance(entry.source, ServerEvent) and self._in_window(entry.source):
                yield difference(entry.source, unrecorded, Severity.ALARM, describe(entry.source), STREAM)
        for entry in records:
            # The event of a record near the begin of the log may precede the log.
            if isinstance(entry.source, AuditRecord) and window.begin + SLACK <= entry.at <= window.end:
                yield _missing(self.sides.tenant_id, entry.source, missing)


def _is_customers(root_key: str) -> bool:
    """Return whether a root key, as records of changes name it, is not the platform's."""
    return root_key.split(" ", maxsplit=1)[0] != RootKeyMode.PLATFORM


def _operation(record: AuditRecord) -> str:
    """Return the operation of a record, with which its id begins.

    Its correlation id can be that of another workflow, which records that the operation was lost.
    """
    return record.event_id.partition(f"/{record.name}/")[0]


def _recorded(record: AuditRecord) -> Hashable | None:
    """Return the unique change that a record describes, None if it describes none."""
    if record.outcome != "success":
        return None
    if record.name in _VERSIONED:
        act, version = _VERSIONED[record.name]
        return act, record.subject, record.details.get(version, "")
    if record.name is AuditName.KEY_DESTROYED and "fingerprint" in record.details:
        return KeyOperation.DELETED, record.subject
    return (KeyOperation.AUTHORITY, record.subject) if record.name is AuditName.AUTHORITY_CREATED else None


def _step(event: ServerEvent) -> Hashable:
    """Return the step that makes a change; enabling a key counts as ensuring that it exists."""
    act = KeyOperation.ENSURED if event.act in _ENSURES or event.act is KeyOperation.ENABLED else event.act
    return act, event.key, str(event.version) if act is KeyOperation.ROTATED else ""


def _is_repeatable(event: ServerEvent) -> bool:
    if event.act in {KeyOperation.ROTATED, KeyOperation.RETIRED, KeyOperation.TRIMMED}:
        return event.layer is not KeyKind.TENANT_KEY
    return event.act in {
        KeyOperation.MADE,
        KeyOperation.ENABLED,
        KeyOperation.DISABLED,
        KeyOperation.DELETION_ALLOWED,
        KeyOperation.CONFIGURED,
    }


def _proof(check: AuditRecord) -> Hashable:
    """Return the event that proves an isolation check: a daily one uses no key, it only reads the tenant key."""
    return KeyOperation.READ if check.details.get("scope") == "daily" else Purpose.BOUNDARY


def _key_version(record: AuditRecord) -> tuple[str, str]:
    """Return the service and key version of a record."""
    return record.subject, record.details.get("version", "")


def _each(events: Iterable[ServerEvent]) -> list[Entry]:
    """Return one entry for each single use in the context of a service key."""
    return [_entry(event, _place(event)) for event in events for _ in range(event.count)]


def _place(event: ServerEvent) -> tuple[str, str]:
    """Return the service and the object id (for service keys, the version) in the context of a use."""
    context = event.context
    return ("", "") if context is None else (context.service, context.object_id)


def _entry(source: ServerEvent | AuditRecord, about: Hashable) -> Entry:
    return Entry(about, source.at, source.correlation_id, source)


def _during(spans: Sequence[tuple[datetime, datetime]], at: datetime) -> bool:
    return any(begin - SLACK <= at <= end + SLACK for begin, end in spans)


def _missing(tenant_id: str, record: AuditRecord, kind: DiscrepancyKind) -> Discrepancy:
    what = f"record {record.seq} states {record.name} of {record.subject}, which the key server's log does not contain"
    return Discrepancy(kind, Severity.ALARM, record.at, what, tenant_id, SERVER, reference=str(record.seq))
