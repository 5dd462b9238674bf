"""Each kind of difference between the stores, and that equal stores have none."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import names as ids
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import DENIED, LockReason, LockRecord
from core.tenants.store_comparison import (
    REMEDIES,
    KeyState,
    RecordedLock,
    SkewKind,
    StoreStates,
    TenantRecord,
    compare,
)

T = "acme-corp"
L2, CA, PAYLOAD = ids.l2_key(T), ids.ca_key(T), ids.payload_key(T)
KEYS = {L2: KeyState(3, oldest=2, kept=1), CA: KeyState(2), PAYLOAD: KeyState(1)}
RECORD = TenantRecord(
    T, State.ACTIVE, l2_version=3, oldest_wrap=2, newest_wrap=3, ca_version=2, payload_key=True, seq=40, is_signed=True
)
LOCKED = RecordedLock(LockRecord(State.LOCKED, frozenset({LockReason.MANUAL}), 50, "aa"))
LEAVING = RecordedLock(LockRecord(State.LEAVING, seq=50))
GONE = RecordedLock(LockRecord(State.OFFBOARDED, seq=50))
EQUAL = StoreStates({T: RECORD}, KEYS, {}, {T: "active"})


def kinds(stores: StoreStates) -> list[SkewKind]:
    return [skew.kind for skew in compare(stores)]


def tenant(state: State = State.ACTIVE, **changed: object) -> StoreStates:
    """Return stores whose tenant has another row; the workflow has the same state."""
    return replace(EQUAL, tenants={T: replace(RECORD, state=state, **changed)}, workflows={T: str(state)})  # type: ignore[arg-type] # fields of the row


def with_keys(**changed: KeyState | None) -> StoreStates:
    keys = {L2: changed.get("l2", KEYS[L2]), CA: changed.get("ca", KEYS[CA]), PAYLOAD: changed.get("payload", KEYS[CA])}
    return replace(EQUAL, keys={name: key for name, key in keys.items() if key is not None})


def with_lock(stores: StoreStates, lock: RecordedLock) -> StoreStates:
    return replace(stores, locks={T: lock})


def test_equal_stores_have_no_difference() -> None:
    assert kinds(EQUAL) == []
    assert kinds(with_lock(tenant(State.LOCKED), LOCKED)) == []
    assert kinds(with_lock(replace(tenant(State.LEAVING), offboardings={T}), LEAVING)) == []
    assert kinds(replace(tenant(State.REQUESTED), workflows={T: "provisioning"})) == []
    offboarded = replace(tenant(State.OFFBOARDED), keys={}, workflows={})
    assert kinds(with_lock(offboarded, GONE)) == []


@pytest.mark.parametrize(
    ("stores", "expected"),
    [
        (with_lock(EQUAL, LOCKED), [SkewKind.LOCK_LOST]),
        (with_lock(EQUAL, LEAVING), [SkewKind.OFFBOARDING_LOST]),
        (with_lock(tenant(State.LOCKED), LEAVING), [SkewKind.OFFBOARDING_LOST]),
        (with_lock(EQUAL, GONE), [SkewKind.DESTRUCTION_LOST]),
        (with_lock(replace(EQUAL, keys={}), LEAVING), [SkewKind.DESTRUCTION_LOST]),
        (with_lock(replace(tenant(State.LEAVING), keys={}, offboardings={T}), GONE), []),
        (with_lock(EQUAL, replace(LOCKED, is_outdated=True)), [SkewKind.LOCK_OUTDATED]),
        (with_lock(EQUAL, replace(GONE, is_outdated=True)), [SkewKind.LOCK_OUTDATED]),
        (tenant(State.LOCKED), [SkewKind.LOCK_UNRECORDED]),
        (with_keys(l2=None), [SkewKind.KEY_MISSING]),
        (with_keys(l2=KeyState(2, oldest=2)), [SkewKind.KEY_OLDER]),
        (with_keys(l2=KeyState(4, oldest=2)), [SkewKind.KEY_NEWER]),
        (with_keys(l2=KeyState(4, oldest=4)), [SkewKind.VERSIONS_RETIRED]),
        (with_keys(l2=KeyState(4, oldest=4, kept=4)), [SkewKind.VERSIONS_DESTROYED]),
        (with_keys(l2=replace(KEYS[L2], disabled=True)), [SkewKind.KEY_DISABLED]),
        (with_keys(ca=None), [SkewKind.CA_KEY_MISSING]),
        (with_keys(ca=KeyState(1)), [SkewKind.CA_KEY_OLDER]),
        (with_keys(ca=KeyState(3)), [SkewKind.CA_KEY_NEWER]),
        (with_keys(payload=None), [SkewKind.PAYLOAD_KEY_MISSING]),
        (tenant(is_signed=False), [SkewKind.CHECKPOINT_REFUSED]),
        (replace(EQUAL, tenants={}), [SkewKind.TENANT_LOST]),
        (replace(EQUAL, tenants={}, keys={}), [SkewKind.TENANT_LOST]),
        (replace(EQUAL, workflows={}), [SkewKind.WORKFLOW_MISSING]),
        (replace(EQUAL, workflows={T: "locked"}), [SkewKind.WORKFLOW_DIFFERS]),
        (replace(tenant(State.REQUESTED), workflows={T: "active"}), [SkewKind.WORKFLOW_DIFFERS]),
        (with_lock(replace(tenant(State.OFFBOARDED), keys={}), GONE), [SkewKind.WORKFLOW_SURPLUS]),
        (with_lock(replace(tenant(State.OFFBOARDED), workflows={}), GONE), [SkewKind.DESTROYED_KEY_FOUND]),
        (with_lock(tenant(State.LEAVING), LEAVING), [SkewKind.OFFBOARDING_MISSING]),
    ],
)
def test_each_difference_is_named(stores: StoreStates, expected: list[SkewKind]) -> None:
    assert kinds(stores) == expected


def test_key_without_a_recorded_version_is_not_compared() -> None:
    row = replace(RECORD, l2_version=None, oldest_wrap=None, newest_wrap=None, ca_version=None, payload_key=False)
    assert kinds(replace(EQUAL, tenants={T: row}, keys={})) == []


def test_tenant_key_of_a_running_rotation_may_be_newer() -> None:
    stores = with_keys(l2=KeyState(4, oldest=2))
    assert kinds(replace(stores, tenants={T: replace(RECORD, busy=True)})) == []


def test_tenant_in_destruction_needs_no_keys() -> None:
    stores = replace(tenant(State.LEAVING, destroying=True), keys={}, workflows={}, offboardings={T})
    assert kinds(with_lock(stores, LEAVING)) == []


def test_detail_states_how_much_older_the_database_is() -> None:
    (skew,) = compare(with_lock(EQUAL, LOCKED))
    assert skew.detail == "the key server has locked, the database active and 10 audit records less"
    assert skew.remedy is REMEDIES[SkewKind.LOCK_LOST]


def test_every_kind_has_a_remedy() -> None:
    assert set(REMEDIES) == set(SkewKind)
    assert all(one.repair for one in REMEDIES.values() if one.replace)


@given(
    row=st.sampled_from(State),
    lock=st.sampled_from(sorted(DENIED)),
    keys=st.sampled_from([KEYS, {}]),
    workflow=st.sampled_from(State),
)
def test_no_lock_at_the_key_server_is_overlooked(
    row: State, lock: State, keys: dict[str, KeyState], workflow: State
) -> None:
    """A tenant that the database would serve, and of which the key server has a lock, is named in every case."""
    stores = replace(tenant(row), keys=keys, workflows={T: str(workflow)})
    found = kinds(with_lock(stores, RecordedLock(LockRecord(lock))))
    lost = {SkewKind.LOCK_LOST, SkewKind.OFFBOARDING_LOST, SkewKind.DESTRUCTION_LOST}
    assert bool(lost & set(found)) or row not in DECRYPTS
