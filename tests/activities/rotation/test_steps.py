"""The steps of RotateKeys on real servers: decryption before, during and after a rotation."""

import time
from datetime import timedelta
from functools import partial
from threading import Event

import pytest
from temporalio.testing import ActivityEnvironment

from activities.notifications import NotificationOutbox
from activities.rotation.rewrap import Rewrapping
from activities.rotation.steps import RotationActivities
from activities.runtime.concurrency import Pace
from core.errors.compliance import TenantKeyShared
from core.errors.keys import KeyUnavailable, KeyVersionInUse, KeyVersionUnknown, RootKeyDisabled
from core.errors.platform import Superseded
from core.errors.services import ServiceUnknown
from core.errors.tenants import ApprovalRequired, OperationLost, TenantNotOperational
from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import Credentials, RootKeyMode, credentials_context
from core.keys.rotation import KeyState, RotationPhase, RotationScope
from core.messages.base import StepInput
from core.messages.keys import RotationProgress
from core.tenants.approvals import Action
from core.tenants.lifecycle import Transition
from core.tenants.locks import LockReason
from core.tenants.policy import TenantPolicy
from tests.activities.dying import after_effect, crashes_after
from tests.activities.root_keys.changing import SERVICES
from tests.activities.rotation.rotating import Rotating
from tests.database.builders import an_object
from tests.database.fixtures import Field
from vault.transit.keys import ciphertext_version
from vault.transit.tenant_keys import TransitTenantKeys


def age(field: Field, what: str, days: int) -> None:
    with field.administrator() as administrator:
        administrator.execute(f"update okcm.{what} = now() - make_interval(days => {days})")


def test_worker_never_decrypts_a_service_key(rotating, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker decrypts only its test plaintext with the L2."""
    opened: list[EncryptionContext] = []
    decrypt = type(rotating.tenant_keys).decrypt
    monkeypatch.setattr(
        type(rotating.tenant_keys), "decrypt", lambda self, c, text: (opened.append(c), decrypt(self, c, text))[1]
    )
    rotating.rotate(rotating.wants())
    assert [context.purpose for context in opened] == ["verify"]


def test_old_database_copies_cannot_be_decrypted_after_the_old_version_is_retired(rotating) -> None:
    copies = rotating.copies()
    step = rotating.wants(services=RotationScope.NONE)
    rotating.rotate(step, until="rewrap-keys")
    assert [len(rotating.open_copy(copy)) for copy in copies] == [32] * len(SERVICES)
    rotating.step_of("retire-tenant-key", step)
    for copy in copies:
        with pytest.raises(KeyUnavailable):
            rotating.open_copy(copy)
    assert rotating.audited("key.tenant_key_versions_retired") == [("rotate-1", "intended"), ("rotate-1", "success")]
    assert rotating.step_of("finish-rotation", step).notification == "keys-rotated"
    assert set(rotating.announced()) == {"ready", "keys-rotated"}


def test_rotation_after_a_compromise_deletes_the_old_versions(rotating, vault_admin) -> None:
    before = rotating.opened()
    rotating.rotate(rotating.wants(compromised=True))
    assert not before.keys() & rotating.opened().keys()
    record = vault_admin.read(f"transit/keys/L2-{rotating.tenant_id}-primary")
    assert (record["min_available_version"], record["min_decryption_version"]) == (2, 2)
    assert rotating.rows("select 1 from okcm.service_key where version = 1 and wrapped is not null") == []
    for name in ("key.tenant_key_versions_deleted", "key.service_key_destroyed"):
        outcomes = [outcome for _, outcome in rotating.audited(name)]
        assert outcomes[0] == "intended"
        assert "success" in outcomes


def test_compromised_key_is_kept_while_an_object_is_encrypted_under_it(rotating, field) -> None:
    crypto = field.open("crypto")
    sealed = an_object(rotating.tenant_id, service="orders")
    with crypto.tenant_tx(rotating.tenant_id) as tx:
        tx.objects.add([sealed])
    step = rotating.wants(services=RotationScope.ONE, service="orders", tenant_key=False, compromised=True)
    rotating.rotate(step, until="activate-service-keys")
    last = rotating.following(step)
    assert rotating.tenant.run_with("destroy-compromised-keys", last).objects == 1
    assert rotating.states()["orders", 1] is KeyState.COMPROMISED
    assert rotating.due() is None
    with crypto.tenant_tx(rotating.tenant_id) as tx:
        assert tx.objects.change(an_object(rotating.tenant_id, service="orders", key_version=2))
    request = rotating.due()
    assert request is not None
    assert (request.services, request.tenant_key) == (RotationScope.NONE, False)
    assert rotating.tenant.run_with("destroy-compromised-keys", last).objects == 0
    assert rotating.states()["orders", 1] is KeyState.DESTROYED


def test_rotation_of_one_service_leaves_the_others(rotating) -> None:
    plan = rotating.rotate(rotating.wants(services=RotationScope.ONE, service="orders", tenant_key=False))
    assert (plan.services, plan.retires, plan.destroys) == (1, False, False)
    assert rotating.l2.version == 1
    assert [place for place in rotating.states() if place[1] == 2] == [("orders", 2)]
    with pytest.raises(ServiceUnknown):
        rotating.rotate(rotating.wants(services=RotationScope.ONE, service="missing", tenant_key=False))


def test_suspended_tenant_rotates_and_a_locked_or_offboarding_one_does_not(rotating) -> None:
    rotating.connection.move(Transition.SUSPEND)
    rotating.rotate(rotating.wants())
    rotating.assert_whole()
    rotating.hold(LockReason.MANUAL)
    with pytest.raises(TenantNotOperational):
        rotating.rotate(rotating.wants())
    rotating.release(LockReason.MANUAL)
    rotating.connection.move(Transition.LEAVE)
    with pytest.raises(TenantNotOperational):
        rotating.rotate(rotating.wants())
    assert rotating.l2.version == 2


def test_due_keys_follow_the_tenants_policy(rotating, field) -> None:
    assert rotating.due() is None
    age(field, "service_key set activated_at", 91)
    request = rotating.due()
    assert request is not None
    assert (request.services, request.tenant_key) == (RotationScope.DUE, False)
    rotating.read(lambda tx: tx.policy.set(TenantPolicy(service_key_days=180, tenant_key_days=30)))
    assert rotating.due() is None
    age(field, "key set rotated_at", 31)
    assert rotating.tenant.run_platform("find-due-rotations").tenants == (rotating.tenant_id,)
    request = rotating.due()
    assert request is not None
    rotating.rotate(rotating.wants(services=request.services, tenant_key=request.tenant_key))
    assert rotating.l2.version == 2
    assert rotating.due() is None
    assert rotating.tenant.run_platform("find-due-rotations").tenants == ()


def test_repeated_steps_rotate_once_also_under_a_customers_root_key(rotating, bao) -> None:
    changed = rotating.to(bao.place(), bao.token())
    before = rotating.opened()
    old = rotating.get(lambda tx: tx.root_keys.sealed(changed.request_id))
    rotating.rotate(rotating.wants(), again=True)
    new = rotating.get(lambda tx: tx.root_keys.sealed(changed.request_id))
    context = credentials_context(rotating.tenant_id, changed.request_id)
    assert ciphertext_version(new.credentials) == 2
    assert Credentials.load(rotating.tenant_keys.decrypt(context, new.credentials)).token is not None
    with pytest.raises(KeyUnavailable):
        rotating.tenant_keys.decrypt(context, old.credentials)
    after = rotating.opened()
    assert before.items() < after.items()
    assert {version for _, version in after} == {1, 2}
    assert (rotating.l2.version, len(rotating.states()), len(set(after.values()))) == (2, 6, 6)
    rotating.assert_in_force(RootKeyMode.OPENBAO, changed.request_id)
    rotating.to_platform()
    assert rotating.opened() == after
    rotating.assert_whole()
    rotating.tenant.assert_audited_once()


@pytest.mark.parametrize("moment", ["prepare-service-keys", "rewrap-keys"])
def test_disabled_root_key_ends_the_rotation_and_the_next_one_completes_it(rotating, bao, moment) -> None:
    rotating.to(bao.place(), bao.token())
    before, step = rotating.opened(), rotating.wants()
    order = ["rotate-tenant-key", "prepare-service-keys", "activate-service-keys", "rewrap-keys"]
    rotating.step_of("plan-rotation", step)
    for name in order[: order.index(moment)]:
        rotating.step_of(name, step)
    with bao.disabled(), pytest.raises(RootKeyDisabled):
        rotating.step_of(moment, step)
    rotating.give_up(step, RootKeyDisabled.code, moment)
    assert before.items() <= rotating.opened().items()
    assert rotating.l2.oldest == 1
    rotating.assert_whole()
    assert rotating.tenant.run_platform("find-due-rotations").tenants == (rotating.tenant_id,)
    rotating.rotate(rotating.wants(services=RotationScope.NONE, tenant_key=False))
    assert (rotating.l2.version, rotating.l2.oldest) == (2, 2)
    assert before.items() <= rotating.opened().items()


def test_service_key_under_a_version_retired_meanwhile_is_created_again(rotating) -> None:
    step = rotating.enrol("payroll")

    def rotate() -> None:
        rotating.rotate(rotating.wants(services=RotationScope.NONE))

    # Its first effect is a read; the second wraps the key.
    with after_effect(rotating.tenant, 2, rotate), pytest.raises(Superseded):
        rotating.tenant.run_with("create-service-key", step)
    rotating.tenant.run_with("create-service-key", step)
    assert ("payroll", 1) in rotating.opened()
    assert rotating.rows("select l2_version from okcm.service_key where service = 'payroll'") == [(2,)]


def test_credentials_under_a_version_retired_meanwhile_are_encrypted_again(rotating, bao) -> None:
    step = rotating.ask(bao.place(), bao.token())

    encrypt = type(rotating.tenant_keys).encrypt
    meanwhile = iter([lambda: rotating.rotate(rotating.wants(services=RotationScope.NONE))])

    def encrypted(keys: TransitTenantKeys, context: EncryptionContext, plaintext: bytes) -> str:
        ciphertext = encrypt(keys, context, plaintext)
        next(meanwhile, lambda: None)()
        return ciphertext

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(rotating.tenant_keys), "encrypt", encrypted)
        with pytest.raises(Superseded):
            rotating.run("register-root-key", step)
    rotating.through(step)
    assert rotating.rows("select l2_version from okcm.root_key") == [(2,)]
    rotating.assert_whole()


def test_service_connected_during_a_rotation_keeps_its_new_key(rotating) -> None:
    step = rotating.wants()
    rotating.rotate(step, until="prepare-service-keys")
    rotating.add_service("payroll")
    for name in ("activate-service-keys", "rewrap-keys", "retire-tenant-key", "finish-rotation"):
        rotating.step_of(name, step)
    assert [version for service, version in rotating.states() if service == "payroll"] == [1]
    assert ("payroll", 1) in rotating.opened()


def test_rewrapping_respects_the_rate_limit(rotating) -> None:
    parts = rotating.tenant.parts
    step = rotating.wants(services=RotationScope.NONE)
    rotating.rotate(step, until="rotate-tenant-key")
    root_key_cache = next(a.__self__._root_keys for a in parts.lifecycle if a.__name__ == "rewrap_keys")
    slow = Rewrapping(parts.database, rotating.tenant_keys, root_key_cache, Pace(len(SERVICES) * 2, Event()))
    began = time.monotonic()
    rotating.in_activity(slow.run, rotating.following(step))
    assert timedelta(seconds=time.monotonic() - began) >= timedelta(seconds=0.5)


def test_paced_steps_return_after_their_time_slice_and_the_next_slice_continues(rotating) -> None:
    parts = rotating.tenant.parts
    wired = next(a.__self__ for a in parts.lifecycle if a.__name__ == "rewrap_keys")
    sliced = RotationActivities(
        *(parts.database, parts.queries, rotating.tenant_keys, wired._fingerprints, wired._root_keys),
        *(NotificationOutbox((), ""), Pace(0, Event(), slice_seconds=0), wired._metrics),
    )
    step = rotating.wants()
    rotating.rotate(step, until="rotate-tenant-key")
    following, done = rotating.following(step), len(SERVICES)
    for paced in (sliced.prepare_service_keys, sliced.rewrap_keys):
        slices = [rotating.in_activity(paced, following) for _ in range(2)]
        # The progress contains the earlier slices: the workflow waits before it retires the old version.
        assert slices == [RotationProgress(total=done, done=done, more=more) for more in (True, False)]


def test_creation_of_versions_respects_the_rate_limit_and_reports_progress(rotating) -> None:
    parts, beats = rotating.tenant.parts, list[object]()
    step = rotating.wants(tenant_key=False)
    rotating.step_of("plan-rotation", step)
    wired = next(a.__self__ for a in parts.lifecycle if a.__name__ == "rewrap_keys")
    slow = RotationActivities(
        *(parts.database, parts.database, rotating.tenant_keys, wired._fingerprints, wired._root_keys),
        *(NotificationOutbox((), ""), Pace(len(SERVICES) / 2, Event()), wired._metrics),
    )
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *details: beats.append(details)
    last, began = rotating.following(step), time.monotonic()
    for _ in range(2):  # the second finds nothing to do and reports the progress
        progress = environment.run(slow.prepare_service_keys, last)
        assert (progress.done, progress.total) == (len(SERVICES), len(SERVICES))
    assert timedelta(seconds=time.monotonic() - began) >= timedelta(seconds=2)
    assert beats[:2] == [(0,), ()]  # the second during the pause
    shown = rotating.rotation(step.number)
    assert (shown.stage, shown.done, shown.total) == (RotationPhase.PREPARE, len(SERVICES), len(SERVICES))


def test_creation_of_versions_sends_a_heartbeat_for_each_key(rotating) -> None:
    """With a slow key server a batch takes longer than the heartbeat timeout."""
    step, beats = rotating.wants(tenant_key=False), rotating.tenant.heartbeats
    rotating.step_of("plan-rotation", step)
    beats.clear()
    rewrap, counts = TransitTenantKeys.rewrap, list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TransitTenantKeys, "rewrap", lambda keys, items: (counts.append(len(beats)), rewrap(keys, items))[1]
        )
        rotating.step_of("prepare-service-keys", step)
    assert counts[0] > len(SERVICES)


def test_unfinished_rotation_of_a_lost_workflow_ends_and_its_late_attempts_change_nothing(rotating) -> None:
    load = StepInput(tenant_id=rotating.tenant_id, operation_id="load")
    rotating.tenant.run_with("load-tenant", load)
    before, step = rotating.opened(), rotating.wants(compromised=True)
    rotating.rotate(step, until="prepare-service-keys")
    for _ in range(2):
        rotating.tenant.run_with("load-tenant", load)
    ended = rotating.rotation(step.number)
    assert (ended.state, ended.problem) == ("failed", OperationLost.code)
    assert rotating.audited("key.rotated") == [("rotate-1", "intended"), ("rotate-1", "failure")]
    with pytest.raises(Superseded):
        rotating.step_of("activate-service-keys", step)
    assert rotating.opened() == before
    rotating.rotate(rotating.wants(compromised=True))
    assert not before.keys() & rotating.opened().keys()


def test_version_is_retired_by_an_operator_when_it_neither_encrypts_nor_holds_an_object(rotating, field) -> None:
    rotating.rotate(rotating.wants(tenant_key=False))
    for version, error in ((2, KeyVersionInUse), (3, KeyVersionUnknown)):
        with pytest.raises(error):
            rotating.retire("orders", version)
    with field.open("crypto").tenant_tx(rotating.tenant_id) as tx:
        tx.objects.add([an_object(rotating.tenant_id, service="orders")])
    with pytest.raises(KeyVersionInUse, match="objects encrypted under it: 1"):
        rotating.retire("orders", 1)
    for effect in (1, 2):
        assert crashes_after(rotating.tenant, effect, partial(rotating.retire, "billing", 1, "retire-2"))
    rotating.retire("billing", 1, "retire-2")
    rotating.retire("billing", 1, "retire-3")
    assert rotating.states()["billing", 1] is KeyState.DESTROYED
    assert rotating.states()["orders", 1] is KeyState.DEACTIVATED
    assert ("billing", 1) not in rotating.opened()
    destroyed = rotating.audited("key.service_key_destroyed")
    assert destroyed[:2] == [("retire-1", "intended"), ("retire-1", "refused")]
    assert destroyed[2:4] == [("retire-2", "intended"), ("retire-2", "success")]


def test_new_version_shared_with_another_tenant_stops_the_rotation_before_its_use(rotating, request_tenant) -> None:
    other, step, parts = request_tenant(), rotating.wants(), rotating.tenant.parts
    rotating.step_of("plan-rotation", step)
    name = rotating.tenant_keys.rotate(rotating.tenant_id, 1).name
    fingerprints = next(a.__self__._fingerprints for a in parts.lifecycle if a.__name__ == "rotate_tenant_key")
    other.read(lambda tx: tx.fingerprints.record("its own", 1, fingerprints.of(rotating.tenant_id, 2)))
    for _ in range(2):
        with pytest.raises(TenantKeyShared):
            rotating.step_of("rotate-tenant-key", step)
    assert (rotating.l2.name, rotating.l2.version) == (name, 1)
    [refused] = rotating.records("key.tenant_key_refused")
    assert (refused["outcome"], refused["details"]["version"]) == ("failure", "2")


def test_retirement_of_a_version_requires_an_approval_where_the_policy_says_so(rotating: Rotating) -> None:
    guarded = frozenset({Action.COMPROMISE, Action.RETIRE_KEY_VERSION})
    rotating.read(lambda tx: tx.policy.set(TenantPolicy(four_eyes=guarded)))
    with pytest.raises(ApprovalRequired):
        rotating.rotate(rotating.wants(compromised=True))
    rotating.rotate(rotating.wants())
    with pytest.raises(ApprovalRequired):
        rotating.retire(SERVICES[0], 1)
    assert rotating.states()[SERVICES[0], 1] is KeyState.DEACTIVATED
