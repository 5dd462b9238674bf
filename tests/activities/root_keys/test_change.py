"""The steps of ChangeRootKey on real servers: storage of credentials, the switch, and concurrent attempts."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import psycopg
import pytest
from structlog.testing import capture_logs
from temporalio.testing import ActivityEnvironment

from activities.notifications import NotificationOutbox
from activities.root_keys.change import RootKeyActivities
from activities.runtime.concurrency import Pace
from config.credential_encryption import decrypt_credentials
from config.secrets import INTAKE_KEY, read_secret
from core.errors.keys import RootKeyRefused, RootKeyTimeout, RootKeyUnreachable, WrongContext
from core.errors.platform import Superseded
from core.errors.tenants import OperationLost, TenantNotOperational
from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import Credentials, Place, PlatformKeyRef, RootKeyMode, credentials_context
from core.messages.base import StepInput
from core.messages.keys import PreflightResult, SwitchResult, WrapProgress
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from database.keys import EncryptedRootKeyRow
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from kms.providers import RootKeyProviders
from openkcm.errors import OpenKcmError
from tests.activities.dying import after_effect
from tests.activities.provisioning import REGION, Provisioning, run_steps
from tests.activities.recorded import LockCopies
from tests.activities.root_keys.changing import SERVICES, Change
from tests.activities.services.connecting import Connection
from tests.concurrency import wait_until
from vault.tenant_locks import TenantLocks

SECRET = "hunter2"


def credentials_of(change: Change, root_key_id: str) -> EncryptedRootKeyRow:
    return change.get(lambda tx: tx.root_keys.sealed(root_key_id))


def opens(change: Change, row: EncryptedRootKeyRow, tenant_id: str | None = None) -> bytes:
    return change.tenant_keys.decrypt(
        credentials_context(tenant_id or change.tenant_id, row.root_key_id), row.credentials
    )


# ── admission ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_admitted_credentials_are_encrypted_under_the_tenants_key_alone(change, bao, field) -> None:
    credentials = bao.token()
    assert credentials.token is not None
    step = change.ask(bao.place(), credentials)
    change.run("register-root-key", step)
    assert change.rows("select sealed from okcm.root_key_request") == [(None,)]
    row = credentials_of(change, step.request_id)
    assert row.credentials.startswith("vault:v1:")
    assert opens(change, row) == credentials.dump()
    with field.administrator() as connection:
        tables = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'okcm'"
        ).fetchall()
        for (table,) in tables:
            secret = credentials.token.get_secret_value()
            found = connection.execute(f"select 1 from {table} t where t::text like %s", [f"%{secret}%"]).fetchall()
            assert found == [], table


def test_credentials_moved_to_another_root_key_cannot_be_decrypted(change, bao) -> None:
    first = change.to(bao.place(), bao.token())
    second = change.ask(bao.place("second"), bao.token())
    change.run("register-root-key", second)
    mine, other = credentials_of(change, first.request_id), credentials_of(change, second.request_id)
    with change.tenant.database.raw_tx(change.tenant_id) as connection:
        for row, theirs in ((mine, other), (other, mine)):
            connection.execute(
                "update okcm.root_key set credentials = %s where root_key_id = %s",
                [theirs.credentials, row.root_key_id],
            )
    for root_key_id in (first.request_id, second.request_id):
        with pytest.raises(WrongContext):
            opens(change, credentials_of(change, root_key_id))
    result = change.run("preflight-root-key", second)
    assert (result.problems, result.code) == (1, WrongContext.code)
    with pytest.raises(WrongContext):
        change.run("wrap-service-keys", second)


def test_credentials_moved_to_another_tenant_cannot_be_decrypted(change, bao, request_tenant) -> None:
    step = change.to(bao.place(), bao.token())
    theirs: Provisioning = request_tenant(organization="Globex")
    run_steps(theirs, ["plan-provisioning", "create-keys", "create-ca", "activate"])
    other = change.of(Connection(theirs, change.connection.operator))
    other.add_service("orders")
    admitted = other.ask(bao.place(), bao.token())
    other.run("register-root-key", admitted)
    mine = credentials_of(change, step.request_id)
    with theirs.database.raw_tx(theirs.tenant_id) as connection:
        connection.execute("update okcm.root_key set credentials = %s", [mine.credentials])
    with pytest.raises(WrongContext):
        opens(change, credentials_of(other, admitted.request_id), theirs.tenant_id)
    assert other.run("preflight-root-key", admitted).code == WrongContext.code
    assert other.opened()


def test_credentials_are_encrypted_for_one_tenant_and_one_request(change, bao) -> None:
    step, other = change.ask(bao.place(), bao.token()), change.ask(bao.place(), bao.token())
    swap = "update okcm.root_key_request r set sealed = o.sealed from okcm.root_key_request o where r <> o"
    with change.tenant.database.raw_tx(change.tenant_id) as connection:
        connection.execute(swap)
    for asked in (step, other):
        with pytest.raises(RootKeyRefused):
            change.run("register-root-key", asked)
        change.abandon(asked, RootKeyRefused.code, "register-root-key")
    change.assert_in_force(RootKeyMode.PLATFORM, None)


def test_offboarding_tenant_changes_nothing_and_keeps_no_credentials(change, bao) -> None:
    step = change.ask(bao.place(), bao.token())
    change.connection.move(Transition.LEAVE)
    with pytest.raises(TenantNotOperational):
        change.run("register-root-key", step)
    change.abandon(step, TenantNotOperational.code, "register-root-key")
    change.assert_in_force(RootKeyMode.PLATFORM, None)
    assert change.rows("select 1 from okcm.root_key") == []


# ── preflight ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_preflight_alone_stores_only_its_result_and_problems_end_a_change(change, bao) -> None:
    good = change.preflight_alone(bao.place(), bao.token())
    assert change.run("preflight-root-key", good) == PreflightResult(problems=0)
    missing = change.preflight_alone(bao.place("nowhere"), bao.token())
    result = change.run("preflight-root-key", missing)
    assert (result.problems > 0, result.code) == (True, change.problem_codes(missing)[0])
    assert change.problem_codes(good) == []
    assert change.rows("select 1 from okcm.root_key") == change.rows("select 1 from okcm.root_key_change") == []
    change.assert_in_force(RootKeyMode.PLATFORM, None)
    # In a change, problems end it.
    before, step = change.opened(), change.ask(bao.place("nowhere"), bao.token())
    change.run("register-root-key", step)
    result = change.run("preflight-root-key", step)
    change.abandon(step, result.code, "preflight-root-key")
    change.assert_in_force(RootKeyMode.PLATFORM, None)
    assert change.opened() == before


@dataclass
class FaultyProviders:
    """Providers of which a step of the preflight raises an error that no adapter should raise."""

    failing: str
    error: Exception = field(default_factory=lambda: TypeError(SECRET))

    def open(self, _tenant_id: str, _place: Place, _credentials: Credentials) -> RootKey:
        self._fail("open")
        return cast("RootKey", self)

    def validate(self) -> Sequence[OpenKcmError]:
        self._fail("validate")
        return []

    def wrap(self, _context: EncryptionContext, _inner: bytes) -> bytes:
        self._fail("wrap")
        return b"wrapped"

    def _fail(self, step: str) -> None:
        if step == self.failing:
            raise self.error


def with_providers(change: Change, providers: FaultyProviders) -> Any:
    """Return the preflight activity of a worker with other providers."""
    settings, database = change.tenant.parts.settings, change.tenant.database
    intake = read_secret(settings.secrets, INTAKE_KEY)
    cache = RootKeyCache(
        lambda _: cast("RootKey", None), cast("RootKeyProviders", providers), change.tenant_keys.decrypt
    )
    outbox, pace = NotificationOutbox((), ""), Pace(0, threading.Event())
    activities = RootKeyActivities(
        database, change.tenant_keys, cache, partial(decrypt_credentials, [intake]), outbox, LockCopies(), pace
    )
    return activities.preflight_root_key


@pytest.mark.parametrize("failing", ["open", "validate", "wrap"])
def test_unexpected_error_of_an_adapter_ends_the_preflight_without_its_text(change, bao, failing) -> None:
    step = change.ask(bao.place(), bao.token())
    change.run("register-root-key", step)
    preflight = with_providers(change, FaultyProviders(failing))
    with capture_logs() as logged:
        result = ActivityEnvironment().run(preflight, step)
    assert (result.problems, result.code) == (1, RootKeyRefused.code)
    (problem,) = change.get(lambda tx: tx.root_keys.problems(step.request_id))
    assert problem.message == "the platform cannot test this root key"
    assert [line["error"] for line in logged] == ["TypeError"]
    assert SECRET not in f"{logged}{problem}"


def test_preflight_of_a_hanging_adapter_ends_with_a_timeout(change, bao, monkeypatch) -> None:
    monkeypatch.setattr("activities.root_keys.change._PREFLIGHT_SECONDS", 0.2)
    release = threading.Event()

    class Hanging(FaultyProviders):
        def validate(self) -> Sequence[OpenKcmError]:
            release.wait(60)
            return []

    step = change.ask(bao.place(), bao.token())
    change.run("register-root-key", step)
    try:
        result = ActivityEnvironment().run(with_providers(change, Hanging("")), step)
    finally:
        release.set()
    assert (result.problems, result.code) == (1, RootKeyTimeout.code)


# ── wrap and switch ──────────────────────────────────────────────────────────────────────────────────────────────


def test_change_wraps_all_service_keys_under_the_new_root_key_and_again_with_new_credentials(change, bao) -> None:
    before, old = change.opened(), bao.token()
    first = change.to(bao.place(), old)
    change.assert_in_force(RootKeyMode.OPENBAO, first.request_id)
    assert change.opened() == before
    assert {row.root_key for row in map(change.row, SERVICES)} == {bao.place().name}
    assert all(change.row(service).wrapped.startswith(b"vault:v1:") for service in SERVICES)
    done = change.change(first.number)
    assert (done.total, done.wrapped, done.state, done.problem) == (len(SERVICES), len(SERVICES), "done", None)
    latest = bao.token()
    second = change.to(bao.place(), latest)
    bao.revoke(old)
    change.assert_in_force(RootKeyMode.OPENBAO, second.request_id)
    assert change.opened() == before
    retired = f"select state, credentials from okcm.root_key where root_key_id = '{first.request_id}'"
    assert change.rows(retired) == [("retired", None)]
    # Invalid credentials can be replaced too.
    bao.revoke(latest)
    change.hold(LockReason.ROOT_KEY)
    change.to(bao.place(), bao.token())
    assert change.opened() == before


def test_two_successive_requests_both_take_effect(change, bao) -> None:
    before = change.opened()
    first, second = change.ask(bao.place(), bao.token()), change.ask(bao.place("second"), bao.token())
    change.through(first)
    assert change.rows("select count(*) from okcm.root_key_request where sealed is not null") == [(1,)]
    change.through(second)
    change.assert_in_force(RootKeyMode.OPENBAO, second.request_id)
    assert change.opened() == before
    back = change.to_platform()
    change.assert_in_force(RootKeyMode.PLATFORM, None)
    assert change.opened() == before
    assert change.change(back.number).from_name == bao.place("second").name


def test_service_connected_between_wrap_and_switch_is_wrapped_in_another_round(change, bao) -> None:
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    staged = change.staged()
    change.add_service("payroll")
    before = change.opened()
    assert change.row("payroll").root_key_mode == RootKeyMode.PLATFORM
    result = change.run("switch-root-key", step)
    assert (result.switched, change.read(lambda tx: tx.root_keys.current())) == (False, None)
    change.run("wrap-service-keys", step)
    assert {service: wrap for service, wrap in change.staged().items() if service != "payroll"} == staged
    assert change.run("switch-root-key", step).switched
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)
    assert change.opened() == before
    assert change.change(step.number).total == len(SERVICES) + 1


def test_service_key_created_during_a_switch_is_wrapped_under_the_new_root_key(change, bao, field) -> None:
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    enrolled = change.enrol("payroll")
    with ThreadPoolExecutor(1) as pool:
        with change.tenant.database.tenant_tx(change.tenant_id) as tx:
            tx.tenants.lock()
            making = pool.submit(change.tenant.run_with, "create-service-key", enrolled)
            wait_until(lambda: waiting(field), lambda: "no connection waits for the tenant's row")
            assert tx.root_keys.switch(step.number)
            assert not making.done()
        with pytest.raises(Superseded):
            making.result(60)
    change.tenant.run_with("create-service-key", enrolled)
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)
    assert len(change.opened()) == len(SERVICES) + 1


def waiting(field) -> bool:
    with psycopg.connect(field.server.administrator(field.name)) as connection:
        found = connection.execute(
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        return found.fetchone() is not None


def test_switch_unlocks_a_tenant_that_the_former_root_key_had_locked(change, bao) -> None:
    change.to(bao.place(), bao.token())
    step = change.ask(PlatformKeyRef(), None)
    change.through(step, until="wrap-service-keys")
    change.hold(LockReason.ROOT_KEY)
    change.hold(LockReason.MANUAL)
    assert change.run("switch-root-key", step).state is State.LOCKED
    assert change.tenant_row.locks == (LockReason.MANUAL,)
    other = change.ask(bao.place(), bao.token())
    change.release(LockReason.MANUAL)
    change.through(other, until="wrap-service-keys")
    change.hold(LockReason.ROOT_KEY)
    assert change.run("switch-root-key", other) == SwitchResult(
        state=State.ACTIVE, switched=True, mode=RootKeyMode.OPENBAO, notification="root-key-changed"
    )
    assert (change.tenant_row.state, change.tenant_row.locks) == (State.ACTIVE, ())


def test_switch_removes_the_lock_at_the_key_server_and_records_the_unlock(change, bao, key_server) -> None:
    change.to(bao.place(), bao.token())
    locks, step = TenantLocks(key_server.session("operator")), change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    change.hold(LockReason.ROOT_KEY)
    change.tenant.run_platform("record-locks")
    assert locks.get(change.tenant_id) is not None
    assert change.run("switch-root-key", step).state is State.ACTIVE
    assert locks.get(change.tenant_id) is None
    (unlocked,) = change.records("tenant.unlocked")
    details = {name: unlocked["details"][name] for name in ("before", "after", "root_key", "health")}
    assert details == {"before": "locked", "after": "active", "root_key": bao.place().name, "health": "ok"}
    assert "unlocked" in change.announced()


def test_switch_updates_the_lock_at_the_key_server_when_another_reason_is_left(change, bao, key_server) -> None:
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    change.hold(LockReason.ROOT_KEY)
    change.hold(LockReason.MANUAL)
    change.tenant.run_platform("record-locks")
    assert change.run("switch-root-key", step).state is State.LOCKED
    locks = TenantLocks(key_server.session("operator"))
    wait_until(
        lambda: (found := locks.get(change.tenant_id)) is not None and found.locks == {LockReason.MANUAL},
        lambda: str(locks.get(change.tenant_id)),
    )
    assert "unlocked" not in change.announced()


def test_suspended_tenant_stays_suspended_and_a_repeated_switch_leaves_a_later_lock(change, bao) -> None:
    change.connection.move(Transition.SUSPEND)
    step = change.to(bao.place(), bao.token())
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)
    assert change.tenant_row.state is State.SUSPENDED
    change.hold(LockReason.ROOT_KEY)
    result = change.run("switch-root-key", step)
    assert (result.switched, result.state) == (True, State.LOCKED)
    assert change.tenant_row.locks == (LockReason.ROOT_KEY,)
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)


# ── attempts that were given up as lost and go on ────────────────────────────────────────────────────────────────


def test_late_attempt_to_wrap_changes_neither_its_own_change_nor_the_next_one(change, bao) -> None:
    before, abandoned = change.opened(), change.ask(bao.place(), bao.token())
    change.through(abandoned, until="preflight-root-key")

    def abandon() -> None:
        change.abandon(abandoned, "internal", "wrap-service-keys")

    with after_effect(change.tenant, 6, abandon), pytest.raises(Superseded):
        change.run("wrap-service-keys", abandoned)
    change.assert_in_force(RootKeyMode.PLATFORM, None)
    assert change.opened() == before
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="preflight-root-key")
    following = change.ask(bao.place("second"), bao.token())

    def overtake() -> None:
        change.abandon(step, "internal", "wrap-service-keys")
        change.through(following, until="wrap-service-keys")

    with after_effect(change.tenant, 6, overtake), pytest.raises(Superseded):
        change.run("wrap-service-keys", step)
    assert change.run("switch-root-key", following).switched
    with pytest.raises(Superseded):
        change.run("wrap-service-keys", following)
    change.assert_in_force(RootKeyMode.OPENBAO, following.request_id)
    assert change.opened() == before


def test_change_that_was_switched_can_no_longer_be_abandoned(change, bao) -> None:
    step = change.to(bao.place(), bao.token())
    ended = change.abandon(step, "internal", "switch-root-key")
    assert (ended.switched, ended.mode) == (True, "openbao")
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)
    given_up = change.ask(PlatformKeyRef(), None)
    change.through(given_up, until="wrap-service-keys")
    ended = change.abandon(given_up, "internal", "switch-root-key")
    assert (ended.switched, ended.mode) == (False, "openbao")
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)


def test_unfinished_change_is_abandoned_when_the_next_one_starts(change, bao) -> None:
    before, step = change.opened(), change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    following = change.to(bao.place("second"), bao.token())
    assert (change.change(step.number).state, change.change(step.number).problem) == ("failed", Superseded.code)
    change.assert_in_force(RootKeyMode.OPENBAO, following.request_id)
    assert change.opened() == before


def test_unfinished_change_of_a_lost_workflow_ends_and_keeps_no_credentials(change, bao) -> None:
    load = StepInput(tenant_id=change.tenant_id, operation_id="load")
    change.tenant.run_with("load-tenant", load)
    before, step = change.opened(), change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    change.tenant.run_with("load-tenant", load)
    ended = change.change(step.number)
    assert (ended.state, ended.problem) == ("failed", OperationLost.code)
    assert change.read(lambda tx: tx.root_keys.sealed(step.request_id)) is None
    assert change.staged() == {}
    assert not change.run("switch-root-key", step).switched
    assert change.opened() == before
    outcomes = [record["outcome"] for record in change.records("root_key.changed")]
    assert outcomes[-2:] == ["intended", "failure"]


def test_wrapping_sends_a_heartbeat_after_every_key(change, bao) -> None:
    """A batch of them can take longer than the heartbeat timeout."""
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="preflight-root-key")
    environment, beats = ActivityEnvironment(), []
    environment.on_heartbeat = lambda *details: beats.append(details)
    wrap = next(activity for activity in change.tenant.parts.lifecycle if activity.__name__ == "wrap_service_keys")
    environment.run(wrap, step)
    assert len(beats) >= len(SERVICES) + 1


def test_wrapping_returns_after_its_time_slice_and_the_next_slice_continues(change, bao) -> None:
    step = change.ask(bao.place(), bao.token())
    change.through(step, until="preflight-root-key")
    wired = next(a.__self__ for a in change.tenant.parts.lifecycle if a.__name__ == "wrap_service_keys")
    dependencies = wired._database, wired._tenant_keys, wired._root_keys, wired._unseal, wired._outbox, wired._locks
    sliced = RootKeyActivities(*dependencies, Pace(0, threading.Event(), slice_seconds=0))
    slices = [ActivityEnvironment().run(sliced.wrap_service_keys, step) for _ in range(2)]
    done = len(SERVICES)
    assert slices == [WrapProgress(total=done, wrapped=done, more=more) for more in (True, False)]


def test_unreachable_root_key_is_retried_and_existing_wraps_are_kept(change, bao) -> None:
    before, step = change.opened(), change.ask(bao.place(), bao.token())
    change.through(step, until="wrap-service-keys")
    staged = change.staged()
    change.add_service("payroll")
    with bao.paused():
        with pytest.raises(RootKeyUnreachable):
            change.run("wrap-service-keys", step)
        assert {service: change.opener.open(change.tenant_id, REGION, service, 1) for service in SERVICES} == {
            service: key for (service, _), key in before.items()
        }
    change.run("wrap-service-keys", step)
    assert staged.items() <= change.staged().items()
    assert change.run("switch-root-key", step).switched
    change.assert_in_force(RootKeyMode.OPENBAO, step.request_id)
