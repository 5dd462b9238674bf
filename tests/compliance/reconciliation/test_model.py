"""Reconciliation rules: matching sides have no discrepancies, and each missing entry causes exactly one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.reconciliation.access_rules import ROOT, SETUP, about_the_platform
from compliance.reconciliation.ledger import RecordedStream, ServerLog, reconcile_all
from compliance.reconciliation.model import (
    CHECKING,
    SLACK,
    AuditRecord,
    Discrepancy,
    DiscrepancyKind,
    KeyKind,
    KeyOperation,
    ReconciliationInput,
    RequestOutcome,
    ServerEvent,
    Severity,
    Window,
    our_record,
)
from compliance.reconciliation.rules import reconcile
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from openkcm.contract.audit_events import AuditName, StoredRecord

TENANT, OTHER = "acme-corp-12345", "beta-corp-67890"
L2, CA, PAYLOAD, L1 = ids.l2_key(TENANT), ids.ca_key(TENANT), ids.payload_key(TENANT), ids.root_key("eu-west-1")
OWNER = f"tenant:{TENANT}"
T0 = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = Window(T0, T0 + timedelta(days=1))
APART = timedelta(minutes=5)
"""Time between two entries, more than any tolerance of the one-to-one pairing."""

Pair = tuple[tuple[ServerEvent, ...], tuple[AuditRecord, ...]]


def event(act: KeyOperation, key: str, who: str, **more: object) -> ServerEvent:
    layer = KeyKind.TENANT_KEY if key == L2 else KeyKind.ROOT_KEY if key == L1 else KeyKind.AUTHORITY
    made = ServerEvent(T0, "r", act, key, TENANT, who, layer=layer)
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


def record(name: AuditName, subject: str, outcome: str = "success", **details: str) -> AuditRecord:
    return AuditRecord(0, T0, name, subject, outcome, f"step/{name}/{subject}/{outcome}", "", details)


def used(act: KeyOperation, key: str, who: str, purpose: Purpose, *place: str) -> ServerEvent:
    """Return a use; `place` is service and object."""
    service, object_id = (*place, "", "")[:2]
    return event(act, key, who, context=EncryptionContext(TENANT, L2, service, purpose, object_id))


def service_key(act: KeyOperation, name: AuditName, service: str, version: str) -> Pair:
    use = used(act, L2, OWNER, Purpose.SERVICE_KEY, service, version)
    return (use,), (record(name, service, version=version),)


def unwrapped(service: str, version: str) -> Pair:
    return service_key(KeyOperation.DECRYPTED, AuditName.SERVICE_KEY_OPENED, service, version)


def made(service: str, version: str) -> Pair:
    return service_key(KeyOperation.WRAPPED, AuditName.SERVICE_KEY_CREATED, service, version)


def change_of(act: KeyOperation, name: AuditName, detail: str, version: int) -> Pair:
    return (event(act, L2, "worker", version=version),), (record(name, L2, **{detail: str(version)}),)


UNIQUE: Sequence[Pair] = (
    *(unwrapped(service, version) for service in ("orders", "billing") for version in ("1", "2")),
    *(unwrapped("orders", "2") for _ in range(4)),
    change_of(KeyOperation.ROTATED, AuditName.TENANT_KEY_ROTATED, "after", 2),
    change_of(KeyOperation.ROTATED, AuditName.TENANT_KEY_ROTATED, "after", 3),
    change_of(KeyOperation.RETIRED, AuditName.TENANT_KEY_RETIRED, "oldest", 3),
    change_of(KeyOperation.TRIMMED, AuditName.TENANT_KEY_TRIMMED, "oldest", 3),
    ((event(KeyOperation.SIGNED, CA, "worker"),), (record(AuditName.SERVICE_CERTIFICATE_ISSUED, "orders"),)),
    ((event(KeyOperation.SIGNED, CA, "worker"),), (record(AuditName.REVOCATION_LIST_PUBLISHED, "4e16"),)),
    (
        (event(KeyOperation.ENSURED, CA, "worker"), event(KeyOperation.AUTHORITY, CA, "worker", serial="4e17")),
        (record(AuditName.AUTHORITY_CREATED, "4e17"),),
    ),
)
"""Entries that are paired one to one."""
EXPLAINED: Sequence[Pair] = (
    made("orders", "1"),
    made("billing", "2"),
    ((used(KeyOperation.ENCRYPTED, L2, OWNER, Purpose.VERIFY, "", "step"),), ()),
    ((used(KeyOperation.ENCRYPTED, L1, "worker", Purpose.SERVICE_KEY, "orders", "1"),), ()),
    ((used(KeyOperation.REWRAPPED, L2, OWNER, Purpose.SERVICE_KEY, "billing", "2"),), ()),
)


def timed(pairs: Sequence[Pair]) -> tuple[list[ServerEvent], list[AuditRecord]]:
    """Assign times and numbers: one entry every five minutes, its record two seconds later."""
    events: list[ServerEvent] = []
    records: list[AuditRecord] = []
    at = T0 + timedelta(hours=1)
    for events_of, records_of in pairs:
        at += APART
        events += [replace(one, at=at, request_id=f"request-{len(events)}") for one in events_of]
        records += [replace(one, at=at + timedelta(seconds=2), seq=len(records) + 1) for one in records_of]
    return events, records


def differences(events: Sequence[ServerEvent], records: Sequence[AuditRecord]) -> tuple[Discrepancy, ...]:
    return reconcile(ReconciliationInput(TENANT, events, records, WINDOW))


@given(st.permutations(UNIQUE))
def test_matching_sides_have_no_discrepancies_in_any_order(pairs: Sequence[Pair]) -> None:
    events, records = timed([*EXPLAINED, *pairs])
    assert differences(events, records) == ()


@given(st.permutations(UNIQUE), st.data())
def test_missing_log_line_is_the_only_discrepancy(pairs: Sequence[Pair], data: st.DataObject) -> None:
    events, records = timed([*EXPLAINED, *pairs])
    removed = data.draw(st.integers(len(EXPLAINED), len(events) - 1))
    (one,) = differences([one for number, one in enumerate(events) if number != removed], records)
    assert (one.kind, one.lacks) in {
        (DiscrepancyKind.MISSING_CHANGE, "key server"),
        (DiscrepancyKind.MISSING_USE, "key server"),
    }
    counterpart = next(r for r in records if events[removed].at < r.at < events[removed].at + APART)
    assert (one.reference, one.at) == (str(counterpart.seq), counterpart.at)


@given(st.permutations(UNIQUE), st.data())
def test_missing_record_is_the_only_discrepancy(pairs: Sequence[Pair], data: st.DataObject) -> None:
    events, records = timed([*EXPLAINED, *pairs])
    removed = data.draw(st.integers(2, len(records) - 1))
    (one,) = differences(events, [one for number, one in enumerate(records) if number != removed])
    counterpart = next(
        e
        for e in events
        if records[removed].at - APART < e.at < records[removed].at and e.act is not KeyOperation.ENSURED
    )
    assert one.kind in {DiscrepancyKind.UNRECORDED_CHANGE, DiscrepancyKind.UNRECORDED_USE}
    assert (one.lacks, one.severity, one.reference) == ("audit stream", Severity.ALARM, counterpart.request_id)


@given(st.integers(0, 40), st.integers(0, 40), st.lists(st.integers(-29, 29), min_size=40, max_size=40))
def test_only_surplus_unwraps_of_one_key_are_discrepancies(here: int, there: int, drift: list[int]) -> None:
    events_of, records_of = unwrapped("orders", "1")
    at = [T0 + timedelta(hours=1) + number * APART for number in range(40)]
    events = [replace(events_of[0], at=at[number], request_id=str(number)) for number in range(here)]
    records = [
        replace(records_of[0], at=at[number] + timedelta(seconds=drift[number]), seq=number) for number in range(there)
    ]
    found = differences(events, records)
    assert [one.reference for one in found] == [str(number) for number in range(min(here, there), max(here, there))]


USES = {
    "unwrap of a service key with a stolen token": used(
        KeyOperation.DECRYPTED, L2, OWNER, Purpose.SERVICE_KEY, "orders", "1"
    ),
    "creation of an unrequested service key": used(KeyOperation.WRAPPED, L2, OWNER, Purpose.SERVICE_KEY, "spy", "1"),
    "rewrap without a rotation": used(KeyOperation.REWRAPPED, L2, OWNER, Purpose.SERVICE_KEY, "orders", "1"),
    "verification without an operation": used(KeyOperation.ENCRYPTED, L2, OWNER, Purpose.VERIFY, "", "unknown"),
    "another purpose": used(KeyOperation.DECRYPTED, L2, OWNER, Purpose.DATA, "orders", "x"),
    "attack without an isolation check": used(KeyOperation.DECRYPTED, L2, OWNER, Purpose.BOUNDARY, "boundary-probe"),
    "credentials of an unknown root key": used(KeyOperation.DECRYPTED, L2, OWNER, Purpose.CREDENTIALS, "", "id"),
    "the outer layer alone": used(KeyOperation.DECRYPTED, L1, "crypto", Purpose.SERVICE_KEY, "orders", "1"),
    "the outer layer by the worker": used(KeyOperation.DECRYPTED, L1, "worker", Purpose.SERVICE_KEY, "orders", "1"),
    "context of another tenant": replace(
        used(KeyOperation.DECRYPTED, L2, OWNER, Purpose.SERVICE_KEY, "orders", "1"),
        context=EncryptionContext(OTHER, L2, "orders", Purpose.SERVICE_KEY, "1"),
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_unexplained_use_is_an_alarm(use: ServerEvent) -> None:
    (one,) = differences([replace(use, at=T0 + APART)], [])
    assert (one.kind, one.lacks, one.severity) == (DiscrepancyKind.UNRECORDED_USE, "audit stream", Severity.ALARM)


CHANGES = {
    "rotated": event(KeyOperation.ROTATED, L2, "worker", version=9),
    "retired": event(KeyOperation.RETIRED, L2, "worker", version=9),
    "trimmed": event(KeyOperation.TRIMMED, L2, "worker", version=9),
    "configured": event(KeyOperation.CONFIGURED, L2, "worker"),
    "made": event(KeyOperation.MADE, L2, "worker"),
    "disabled": event(KeyOperation.DISABLED, L2, "worker"),
    "enabled": event(KeyOperation.ENABLED, L2, "worker"),
    "deletion allowed": event(KeyOperation.DELETION_ALLOWED, PAYLOAD, "offboarding"),
    "deleted": event(KeyOperation.DELETED, L2, "offboarding"),
    "authority": event(KeyOperation.AUTHORITY, CA, "worker", serial="bad"),
    "signed": event(KeyOperation.SIGNED, CA, "worker"),
    "CA key rotated": event(KeyOperation.ROTATED, CA, "worker", version=7),
    "CA key configured": event(KeyOperation.RETIRED, CA, "worker", version=7),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_change_without_a_record_is_an_alarm(change: ServerEvent) -> None:
    (one,) = differences([replace(change, at=T0 + APART)], [])
    assert (one.kind, one.lacks, one.severity) == (DiscrepancyKind.UNRECORDED_CHANGE, "audit stream", Severity.ALARM)


UNAUTHORIZED = {
    "another tenant's token, accepted": (
        used(KeyOperation.DECRYPTED, L2, f"tenant:{OTHER}", Purpose.SERVICE_KEY, "orders", "1"),
        DiscrepancyKind.FOREIGN_TOKEN,
        Severity.ALARM,
    ),
    "another tenant's token, rejected": (
        replace(
            used(KeyOperation.DECRYPTED, L2, f"tenant:{OTHER}", Purpose.SERVICE_KEY), answer=RequestOutcome.REFUSED
        ),
        DiscrepancyKind.FOREIGN_TOKEN,
        Severity.DIFFERENCE,
    ),
    "a root token": (event(KeyOperation.READ, L2, ROOT), DiscrepancyKind.ROOT_TOKEN, Severity.ALARM),
    "read by an administrator": (
        event(KeyOperation.READ, L2, "approle admin"),
        DiscrepancyKind.UNKNOWN_IDENTITY,
        Severity.ALARM,
    ),
    "read by the codec": (
        event(KeyOperation.READ, L2, "codec"),
        DiscrepancyKind.UNKNOWN_IDENTITY,
        Severity.ALARM,
    ),
    "failed request of an unknown identity": (
        replace(used(KeyOperation.DECRYPTED, L2, "token", Purpose.SERVICE_KEY), answer=RequestOutcome.FAILED),
        DiscrepancyKind.UNKNOWN_IDENTITY,
        Severity.DIFFERENCE,
    ),
    "own process, rejected": (
        replace(
            event(KeyOperation.OTHER, L2, "worker", path=f"transit/export/encryption-key/{L2}"),
            answer=RequestOutcome.REFUSED,
        ),
        DiscrepancyKind.DENIED,
        Severity.DIFFERENCE,
    ),
    "unknown path": (
        event(KeyOperation.OTHER, L2, "worker", path=f"transit/hmac/{L2}"),
        DiscrepancyKind.UNKNOWN_REQUEST,
        Severity.DIFFERENCE,
    ),
}


@pytest.mark.parametrize(("unauthorized", "kind", "severity"), UNAUTHORIZED.values(), ids=list(UNAUTHORIZED))
def test_unauthorized_identity_is_reported(
    unauthorized: ServerEvent, kind: DiscrepancyKind, severity: Severity
) -> None:
    found = differences([replace(unauthorized, at=T0 + APART)], [])
    assert (kind, severity, unauthorized.who) in {(one.kind, one.severity, one.who) for one in found}


def test_permitted_platform_event_is_no_discrepancy() -> None:
    assert about_the_platform([event(KeyOperation.ENSURED, L1, "worker", at=T0 + APART)], WINDOW, [], T0) == ()


def test_isolation_check_explains_only_rejected_attacks() -> None:
    checked = replace(record(AuditName.BOUNDARY_CHECKED, TENANT), at=T0 + timedelta(hours=1), seq=1)
    own = used(KeyOperation.DECRYPTED, L2, OWNER, Purpose.BOUNDARY, "boundary-probe")
    attack = used(KeyOperation.DECRYPTED, L2, f"tenant:{OTHER}", Purpose.BOUNDARY, "boundary-probe")
    refused = replace(attack, answer=RequestOutcome.REFUSED)
    before = checked.at - timedelta(seconds=1)
    assert differences([replace(one, at=before) for one in (own, refused)], [checked]) == ()
    (one,) = differences([replace(one, at=before) for one in (own, attack)], [checked])
    assert (one.kind, one.severity) == (DiscrepancyKind.FOREIGN_TOKEN, Severity.ALARM)
    long_before = checked.at - CHECKING - SLACK
    found = differences([replace(own, at=before), replace(refused, at=long_before)], [checked])
    assert [(one.kind, one.severity) for one in found] == [(DiscrepancyKind.FOREIGN_TOKEN, Severity.DIFFERENCE)]
    assert [one.kind for one in differences([], [checked])] == [DiscrepancyKind.MISSING_USE]


def test_daily_isolation_check_needs_only_the_workers_read_of_the_tenant_key() -> None:
    daily = replace(record(AuditName.BOUNDARY_CHECKED, TENANT, scope="daily"), at=T0 + timedelta(hours=1), seq=1)
    read = event(KeyOperation.READ, L2, "worker", at=daily.at - timedelta(seconds=1))
    assert differences([read], [daily]) == ()
    assert [one.kind for one in differences([read], [replace(daily, details={})])] == [DiscrepancyKind.MISSING_USE]
    for other in (replace(read, at=daily.at - CHECKING - SLACK), replace(read, who="operator"), replace(read, key=CA)):
        (one,) = differences([other], [daily])
        assert (one.kind, one.severity, one.reference) == (DiscrepancyKind.MISSING_USE, Severity.ALARM, "1")


def test_rewrap_is_explained_only_by_a_running_rotation() -> None:
    begun = replace(record(AuditName.KEYS_ROTATED, L2, "intended"), at=T0 + timedelta(hours=3), correlation_id="w/1")
    ended = replace(record(AuditName.KEYS_ROTATED, L2), at=T0 + timedelta(hours=8), correlation_id="w/1")
    use = used(KeyOperation.REWRAPPED, L2, OWNER, Purpose.SERVICE_KEY, "orders", "1")
    for hours, explained in ((2, False), (5, True), (9, False)):
        found = differences([replace(use, at=T0 + timedelta(hours=hours))], [begun, ended])
        assert (found == ()) is explained, hours


HOUR = timedelta(hours=1)


def stored(name: AuditName, operation: str, hours: float, outcome: str, **details: str) -> AuditRecord:
    """Return the record of a step as the reconciliation reads it from the stream."""
    fields = {
        "time": (T0 + hours * HOUR).isoformat(),
        "name": name,
        "subject": "a key",
        "outcome": outcome,
        "event_id": f"{operation}/{name}/a key/{outcome}",
        "correlation_id": f"w/{operation}",
        "details": details,
    }
    found = our_record(StoredRecord(int(hours * 60), json.dumps(fields), b""))
    assert found is not None
    return found


def explained(use: ServerEvent, records: Sequence[AuditRecord], hours: float) -> bool:
    found = differences([replace(use, at=T0 + hours * HOUR)], records)
    assert {one.severity for one in found} <= {Severity.ALARM}
    return not found


REWRAP = used(KeyOperation.REWRAPPED, L2, OWNER, Purpose.SERVICE_KEY, "orders", "1")
CREDENTIALS = used(KeyOperation.DECRYPTED, L2, OWNER, Purpose.CREDENTIALS, "", "request")
FAILING = {
    "rewrap, rotation": (REWRAP, AuditName.KEYS_ROTATED, AuditName.KEYS_ROTATED),
    "rewrap, root key": (REWRAP, AuditName.ROOT_KEY_CHANGED, AuditName.ROOT_KEY_CHANGED),
    "credentials, root key": (CREDENTIALS, AuditName.ROOT_KEY_CHANGED, AuditName.ROOT_KEY_CHANGED),
    "signature, CA": (
        event(KeyOperation.SIGNED, CA, "worker"),
        AuditName.AUTHORITY_ROLL_INTENDED,
        AuditName.AUTHORITY_ROLLED,
    ),
}


@pytest.mark.parametrize(("use", "begun", "ended"), FAILING.values(), ids=list(FAILING))
def test_failed_operation_explains_no_later_use(use: ServerEvent, begun: AuditName, ended: AuditName) -> None:
    started = stored(begun, "op-1", 3, "intended", after="aws-kms arn")
    failed = stored(ended, "op-1", 5, "failure", code="root_key_refused", at="wrap-service-keys")
    records = [started, failed]
    assert [explained(use, records, hours) for hours in (2, 4, 5 + 20 / 3600, 5 + 40 / 3600, 9)] == [
        False, True, True, False, False,
    ]  # fmt: skip
    # The workflow of the tenant was lost; its successor records the failure.
    lost = replace(failed, correlation_id="tenant/acme", details={"code": "operation_lost", "at": "load-tenant"})
    assert not explained(use, [started, lost], 9)
    # It was never recorded; the next operation ended it.
    following = [stored(begun, "op-2", 6, "intended", after="aws-kms arn"), stored(ended, "op-2", 7, "failure")]
    assert [explained(use, [started, *following], hours) for hours in (5.5, 9)] == [True, False]


def test_unfinished_ca_rotation_explains_signatures_for_seven_days() -> None:
    begun = stored(AuditName.AUTHORITY_ROLL_INTENDED, "authority-roll-1", 1, "intended")
    signed = event(KeyOperation.SIGNED, CA, "worker")
    for days, found in ((6, 0), (8, 1)):
        events = [replace(signed, at=T0 + timedelta(days=days))]
        sides = ReconciliationInput(TENANT, events, [begun], Window(T0, T0 + timedelta(days=30)))
        assert len(reconcile(sides)) == found


def test_credentials_are_explained_while_a_customers_root_key_is_in_use_or_changed() -> None:
    name = AuditName.ROOT_KEY_CHANGED
    records = [
        stored(name, "root-key-1", 2, "intended", after="aws-kms arn"),
        stored(name, "root-key-1", 3, "success", after="aws-kms arn"),
        stored(name, "root-key-2", 6, "intended", after="platform root-eu-west-1"),
        stored(name, "root-key-2", 7, "failure", at="preflight-root-key"),
        stored(name, "root-key-3", 9, "intended", after="platform root-eu-west-1"),
        stored(name, "root-key-3", 10, "success", after="platform root-eu-west-1"),
    ]
    outcomes = {hours: explained(CREDENTIALS, records, hours) for hours in (1, 2.5, 5, 8, 9.5, 11)}
    assert outcomes == {1: False, 2.5: True, 5: True, 8: True, 9.5: True, 11: False}


def test_uses_before_the_end_of_the_archive_are_not_compared_and_later_ones_are() -> None:
    log = ServerLog(begin=T0)
    log.events[TENANT] = [replace(CREDENTIALS, at=T0 + hours * HOUR) for hours in (1, 5, 9)]
    log.events[TENANT] += [replace(REWRAP, at=T0 + hours * HOUR) for hours in (1, 5, 9)]
    log.events[""] = [
        event(KeyOperation.OTHER, L2, "worker", answer=RequestOutcome.REFUSED, at=T0 + hours * HOUR) for hours in (1, 9)
    ]
    archived = RecordedStream([], T0 + 3 * HOUR)

    def found(stream: RecordedStream) -> list[tuple[DiscrepancyKind, int]]:
        return [
            (one.kind, (one.at - T0) // HOUR)
            for one in reconcile_all(log, {TENANT: stream}, None, WINDOW.end).tenants[TENANT]
            if one.at is not None
        ]

    use = DiscrepancyKind.UNRECORDED_USE
    assert found(archived) == [(use, 5), (use, 5), (use, 9), (use, 9)]
    assert found(replace(archived, holds_root_key=True)) == [(use, 5), (use, 9)]
    # The record of the begin is archived, that of the end is not.
    rotated = stored(AuditName.KEYS_ROTATED, "rotate-1", 6, "success")
    back = stored(AuditName.ROOT_KEY_CHANGED, "root-key-2", 7, "success", before="pkcs11 a", after="platform b")
    assert found(replace(archived, records=[rotated, back])) == [(use, 9), (use, 9)]
    (denied,) = reconcile_all(log, {TENANT: archived}, None, WINDOW.end).platform
    assert denied.at == T0 + 9 * HOUR


def test_entries_of_one_operation_are_paired_before_near_ones() -> None:
    """Of an unrecorded certificate and a recorded one a second later, only the first is a discrepancy."""
    stolen = event(KeyOperation.SIGNED, CA, "worker", at=T0 + APART, request_id="stolen", correlation_id="elsewhere")
    recorded_one = replace(stolen, at=stolen.at + timedelta(seconds=1), request_id="honest", correlation_id="w/orders")
    issued = replace(
        record(AuditName.SERVICE_CERTIFICATE_ISSUED, "orders"), at=recorded_one.at + SLACK, correlation_id="w/orders"
    )
    (one,) = differences([stolen, recorded_one], [issued])
    assert one.reference == "stolen"


def test_entries_outside_the_window_are_ignored() -> None:
    use = next(iter(USES.values()))
    late = replace(unwrapped("orders", "1")[1][0], at=WINDOW.end + SLACK)
    assert differences([replace(use, at=WINDOW.end + APART), replace(use, at=T0 - APART)], []) == ()
    assert differences([], [late]) == ()


def test_log_that_begins_after_the_first_record_is_reported_unless_since_is_later() -> None:
    rotated = change_of(KeyOperation.ROTATED, AuditName.TENANT_KEY_ROTATED, "after", 2)[1][0]
    log = ServerLog(begin=T0 + timedelta(hours=5))
    streams = {TENANT: RecordedStream([replace(rotated, at=T0 + timedelta(hours=1), seq=7)])}
    (one,) = reconcile_all(log, streams, None, WINDOW.end).tenants[TENANT]
    assert (one.kind, one.reference) == (DiscrepancyKind.BEGINS_LATE, "7")
    assert reconcile_all(log, streams, T0 + timedelta(hours=6), WINDOW.end).clean
    (one,) = reconcile_all(log, streams, T0, WINDOW.end).tenants[TENANT]
    assert one.kind is DiscrepancyKind.BEGINS_LATE


def test_administration_is_reported_and_own_set_up_is_a_notice() -> None:
    log = ServerLog(begin=T0)
    administered = ServerEvent(T0 + APART, "r", KeyOperation.SET_UP, "sys/policies/acl/openkcm-tenant", "", SETUP)
    log.events[""] = [administered, administered, replace(administered, at=T0 - APART, who="userpass-eve")]
    closed = reconcile_all(log, {}, None, WINDOW.end)
    assert ([one.severity for one in closed.platform], closed.clean) == ([Severity.NOTICE], True)
    for another in (replace(administered, who="userpass-eve"), replace(administered, act=KeyOperation.ADMINISTERED)):
        log.events[""] = [another]
        closed = reconcile_all(log, {}, None, WINDOW.end)
        assert [(one.kind, one.who) for one in closed.platform] == [(DiscrepancyKind.ADMINISTRATION, another.who)]
        assert not closed.clean


def test_hidden_contexts_are_reported_once_for_each_key() -> None:
    hidden = event(KeyOperation.DECRYPTED, L2, OWNER, at=T0 + APART)
    (one,) = differences([hidden] * 5, [])
    assert one.kind is DiscrepancyKind.HIDDEN
    assert "5 times" in one.what


def test_our_record_returns_the_time_of_the_event_and_none_for_damaged_records() -> None:
    text = (
        '{"seq": 3, "time": "2026-03-01T00:00:09.000000Z", "name": "key.service_key_unwrapped", "subject": "orders",'
        ' "outcome": "success", "event_id": "e", "correlation_id": "c",'
        ' "details": {"version": "2", "at": "2026-03-01T00:00:01.500+00:00"}}'
    )
    found = our_record(StoredRecord(3, text, b""))
    assert found is not None
    assert (found.at, found.details["version"]) == (T0 + timedelta(seconds=1.5), "2")
    for damaged in ("{", "[]", "{}", text.replace("unwrapped", "unheard_of"), text.replace("2026-", "year ")):
        assert our_record(StoredRecord(3, damaged, b"")) is None


STEPS = [
    (event(KeyOperation.ENSURED, L2, "worker"), record(AuditName.TENANT_KEY_CREATED, L2)),
    (event(KeyOperation.ENSURED, PAYLOAD, "worker"), record(AuditName.PAYLOAD_KEY_CREATED, PAYLOAD)),
    (event(KeyOperation.ROTATED, CA, "worker", version=2), record(AuditName.AUTHORITY_ROLL_INTENDED, CA, version="2")),
    (event(KeyOperation.DISABLED, L2, "worker"), record(AuditName.PROVISION_ROLLED_BACK, L2)),
    (event(KeyOperation.DELETION_ALLOWED, L2, "offboarding"), record(AuditName.KEY_DESTROYED, L2)),
    (event(KeyOperation.DELETED, L2, "offboarding"), record(AuditName.KEY_DESTROYED, L2, fingerprint="ab")),
    (
        used(KeyOperation.WRAPPED, L2, OWNER, Purpose.SERVICE_KEY, "orders", "1"),
        record(AuditName.SERVICE_CONNECT_INTENDED, "orders"),
    ),
]


@pytest.mark.parametrize(("done", "recorded"), STEPS, ids=range(len(STEPS)))
def test_recorded_step_explains_its_change_at_the_key_server(done: ServerEvent, recorded: AuditRecord) -> None:
    at = T0 + APART
    records = [replace(recorded, at=at + timedelta(seconds=2), seq=1)]
    assert differences([replace(done, at=at)], records) == ()


def test_platform_root_key_is_verified_in_the_context_of_the_canary_tenant() -> None:
    context = EncryptionContext(ids.CANARY_TENANT_ID, ids.l2_key(ids.CANARY_TENANT_ID), "", Purpose.VERIFY, "step")
    proof = event(KeyOperation.ENCRYPTED, L1, "worker", at=T0 + APART, tenant_id=ids.CANARY_TENANT_ID, context=context)
    assert reconcile(ReconciliationInput(ids.CANARY_TENANT_ID, [proof], [], WINDOW)) == ()
