"""Delivery to the receivers that a tenant chose: fan-out, signatures, retries, a killed worker, other tenants."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from standardwebhooks import Webhook
from temporalio.testing import ActivityEnvironment

from activities.notifications import NotificationOutbox
from config import secrets
from config.credential_encryption import encrypt_signing_secret
from config.secrets import add_new_values, read_secret, remove_former_values, webhook_secret
from config.settings import Settings
from core.errors.notifications import DeliveryUnknown, TargetsFull, TargetUnknown, TooManyTests
from core.messages.base import StepInput
from core.messages.notifications import DeliverInput
from core.notifications import Channel, NotificationKind, message_id
from core.notifications.targets import GROUPS, MAX_TARGETS, TargetKind, muted_for, secret_ref, selected
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.notifications import Delivery
from openkcm.contract.audit_events import AuditName
from tests.activities.notifications.receiving import Mailbox
from tests.activities.provisioning import Provisioning
from tests.concurrency import wait_until
from tests.database.fixtures import Field
from tests.e2e.receivers import CallbackReceiver
from tests.worker.conftest import process_environment
from worker import wiring

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
SWEEP, DELIVER = "dispatch-outbox", "deliver-to-target"
EVERY = tuple(kind for kinds in GROUPS.values() for kind in kinds)


@pytest.fixture
def settings(settings: Settings, mailbox: Mailbox) -> Settings:
    return settings.model_copy(
        update={"callback_url": None, "smtp_port": mailbox.port, "webhook_networks": ("127.0.0.0/8",)}
    )


@pytest.fixture
def receiver() -> Iterator[CallbackReceiver]:
    """A customer's receiver of webhooks."""
    with closing(CallbackReceiver()) as receiver:
        yield receiver


class Targets:
    """Changes the targets of tenants as the dashboard does."""

    def __init__(self, dashboard: Database, intake: str) -> None:
        self.dashboard = dashboard
        self.intake = intake

    def add(
        self, tenant: Provisioning, address: str, *, kind: TargetKind = TargetKind.WEBHOOK, events=EVERY
    ) -> tuple[str, str]:
        """Return the id and the signing secret of a new target."""
        target_id, secret = uuid4().hex, webhook_secret()
        sealed = self.seal(tenant, target_id, 1, secret) if kind is TargetKind.WEBHOOK else None
        with self.dashboard.tenant_tx(tenant.tenant_id) as tx:
            tx.targets.add(target_id, kind, "Security team", address, muted_for(events), sealed)
        return target_id, secret

    def rotate(self, tenant: Provisioning, target_id: str, number: int = 2) -> str:
        secret = webhook_secret()
        with self.dashboard.tenant_tx(tenant.tenant_id) as tx:
            tx.targets.replace_secret(target_id, number, self.seal(tenant, target_id, number, secret))
        return secret

    def seal(self, tenant: Provisioning, target_id: str, number: int, secret: str) -> str:
        return encrypt_signing_secret(self.intake, tenant.tenant_id, secret_ref(target_id, number), secret)


@pytest.fixture
def targets(field: Field, settings: Settings) -> Targets:
    return Targets(field.open("dashboard"), read_secret(settings.secrets, secrets.INTAKE_PUBLIC_KEY))


@pytest.fixture
def make_due(field: Field) -> Callable[[], None]:
    def make_due() -> None:
        with field.administrator() as administrator:
            administrator.execute(
                "update okcm.outbox set added_at = added_at - interval '2 minutes',"
                " next_try = next_try - interval '20 minutes'"
            )

    return make_due


OUTBOX = NotificationOutbox((Channel.CALLBACK, Channel.EMAIL), "https://cmk.openkcm.io")


def store(
    tenant: Provisioning,
    kind: NotificationKind = NotificationKind.LOCKED,
    operation: str = "lock-1",
    outbox: NotificationOutbox = OUTBOX,
) -> None:
    """Store a notification as an operation does."""
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        row = tx.tenants.get()
        assert row is not None
        outbox.store(tx, StepInput(tenant_id=tenant.tenant_id, operation_id=operation), row, kind)


def deliver(tenant: Provisioning, target_id: str, message: str | None = None, request: str | None = None) -> None:
    """Request a test, or another attempt of a message, as the workflow of the dashboard does."""
    asked = DeliverInput(
        tenant_id=tenant.tenant_id, operation_id=request or uuid4().hex, target_id=target_id, message_id=message
    )
    ActivityEnvironment().run(tenant.activity(DELIVER), asked)


def log_of(tenant: Provisioning) -> list[Delivery]:
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        return list(tx.outbox.deliveries(50))


def is_signed(message, secret: str) -> bool:
    try:
        Webhook(secret).verify(message.body, message.headers)
    except Exception:  # noqa: BLE001 - the library raises several kinds
        return False
    return True


def test_webhook_gets_the_facts_of_the_mail_with_a_signature(targets, request_tenant, receiver) -> None:
    tenant = request_tenant()
    target_id, secret = targets.add(tenant, f"{receiver.url}?token=secret-in-the-query")
    store(tenant)
    tenant.run(Step.ANNOUNCE, kind=NotificationKind.LOCKED)
    [taken] = receiver.taken
    assert is_signed(taken, secret)
    assert not is_signed(taken, webhook_secret())
    assert taken.headers["webhook-id"] == message_id(tenant.tenant_id, "lock-1", NotificationKind.LOCKED, target_id)
    assert taken.event["type"] == "io.openkcm.tenant.locked"
    assert taken.event["data"]["tenant_id"] == tenant.tenant_id
    assert "is locked" in taken.event["data"]["subject"]
    sent = next(one for one in log_of(tenant) if one.target_id == target_id)
    assert (sent.response, sent.attempts, sent.sent_at is None) == (204, 1, False)
    [record] = tenant.records(AuditName.ANNOUNCED)
    assert record["details"] == {"channel": "target-webhook", "kind": "locked", "target": target_id}
    assert "secret-in-the-query" not in str(tenant.records(AuditName.ANNOUNCED))


def test_targets_replace_the_platforms_mail_only_for_their_events(targets, request_tenant, mailbox, make_due) -> None:
    tenant = request_tenant()
    targets.add(tenant, "team@customer.example", kind=TargetKind.EMAIL, events=[NotificationKind.LOCKED])
    store(tenant, NotificationKind.LOCKED)
    store(tenant, NotificationKind.UNLOCKED)
    make_due()
    tenant.run_platform(SWEEP)
    assert sorted((str(mail["To"]), str(mail["Subject"]).split(" is ")[1]) for mail in mailbox.mails) == [
        (f"security@{tenant.tenant_id}.example", "unlocked"),
        ("team@customer.example", "locked"),
    ]


def test_former_secret_signs_until_its_end_and_the_newest_always(targets, request_tenant, receiver, field) -> None:
    tenant = request_tenant()
    target_id, first = targets.add(tenant, receiver.url)
    second = targets.rotate(tenant, target_id)
    deliver(tenant, target_id)
    assert [is_signed(receiver.taken[-1], secret) for secret in (first, second)] == [True, True]
    with field.administrator() as administrator:
        [(overlap,)] = administrator.execute("select former_until - now() from okcm.notification_target").fetchall()
        assert timedelta(hours=23, minutes=55) < overlap < timedelta(hours=24)
        administrator.execute("update okcm.notification_target set former_until = now()")
    deliver(tenant, target_id)
    assert [is_signed(receiver.taken[-1], secret) for secret in (first, second)] == [False, True]


def test_secrets_are_stored_only_as_ciphertexts_that_another_tenant_and_number_cannot_use(
    targets, request_tenant, receiver, field
) -> None:
    tenant, other = request_tenant(), request_tenant()
    target_id, secret = targets.add(tenant, receiver.url)
    other_id, _ = targets.add(other, receiver.url)
    deliver(tenant, target_id)
    with field.administrator() as administrator:
        tables = administrator.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
        rows = [str(row) for (table,) in tables for row in administrator.execute(f"select * from okcm.{table}")]
        assert not [row for row in rows if secret.removeprefix("whsec_") in row]
        administrator.execute(
            "update okcm.notification_target set sealed = (select sealed from okcm.notification_target"
            f" where target_id = '{target_id}') where target_id = '{other_id}'"
        )
    deliver(other, other_id)
    [failed] = log_of(other)
    assert failed.problem == "the signing secret cannot be decrypted: rotate it in the dashboard"
    assert len(receiver.taken) == 1


def test_failing_receiver_is_retried_with_the_same_id_and_ends_as_a_dead_letter(
    targets, request_tenant, receiver, make_due, field
) -> None:
    tenant = request_tenant()
    target_id, _ = targets.add(tenant, receiver.url)
    receiver.status = 503
    store(tenant)
    tenant.run(Step.ANNOUNCE, kind=NotificationKind.LOCKED)  # an operation does not wait for a target
    for _ in range(2):
        make_due()
        tenant.run_platform(SWEEP)
    [waiting] = log_of(tenant)
    assert (waiting.attempts, waiting.problem) == (3, "the receiver responded with 503")
    with field.administrator() as administrator:
        administrator.execute("update okcm.outbox set added_at = now() - interval '73 hours'")
    make_due()
    tenant.run_platform(SWEEP)
    [dead] = log_of(tenant)
    assert dead.expired_at is not None
    make_due()
    tenant.run_platform(SWEEP)
    assert len(receiver.taken) == 4
    receiver.status = 204
    deliver(tenant, target_id, dead.message_id)
    [sent] = log_of(tenant)
    assert (sent.attempts, sent.expired_at, sent.sent_at is None) == (5, None, False)
    assert {taken.headers["webhook-id"] for taken in receiver.taken} == {dead.message_id}
    with pytest.raises(DeliveryUnknown):
        deliver(tenant, target_id, dead.message_id)


def test_test_message_does_not_wait_for_failed_ones_and_a_repeated_request_sends_none(
    targets, request_tenant, receiver
) -> None:
    tenant = request_tenant()
    target_id, _ = targets.add(tenant, receiver.url)
    receiver.status = 500
    store(tenant)
    deliver(tenant, target_id)
    receiver.status = 200
    for _ in range(2):
        deliver(tenant, target_id, request="request-2")
    kinds = [taken.event["data"]["kind"] for taken in receiver.taken]
    assert kinds == ["test", "test", "test"], "the first test is attempted again before the second one"
    assert len({taken.headers["webhook-id"] for taken in receiver.taken}) == 2
    assert {one.kind for one in log_of(tenant) if one.sent_at is None} == {NotificationKind.LOCKED}


def test_tests_are_limited(targets, request_tenant, receiver) -> None:
    tenant = request_tenant()
    target_id, _ = targets.add(tenant, receiver.url)
    for _ in range(10):
        deliver(tenant, target_id)
    with pytest.raises(TooManyTests):
        deliver(tenant, target_id)
    assert len(receiver.taken) == 10 == len(log_of(tenant))


def test_message_to_a_paused_or_removed_target_is_a_dead_letter_and_others_get_theirs(
    targets, request_tenant, receiver, make_due
) -> None:
    tenant = request_tenant()
    paused, removed, used = [targets.add(tenant, receiver.url)[0] for _ in range(3)]
    store(tenant)
    with targets.dashboard.tenant_tx(tenant.tenant_id) as tx:
        tx.targets.pause(paused, paused=True)
        tx.targets.remove(removed)
    make_due()
    tenant.run_platform(SWEEP)
    ends = {one.target_id: one for one in log_of(tenant)}
    assert ends[paused].problem == "the target is paused: resume it, then retry"
    assert ends[removed].problem == "the target was removed"
    assert all(ends[target].expired_at for target in (paused, removed))
    assert len(receiver.taken) == 1 == (ends[used].sent_at is not None)
    store(tenant, operation="lock-2")
    assert len(log_of(tenant)) == 4, "a paused target gets no new message"


def test_eleventh_target_is_rejected_and_a_removed_one_makes_room(targets, request_tenant) -> None:
    tenant = request_tenant()
    made = [targets.add(tenant, f"https://hooks.example/{n}")[0] for n in range(MAX_TARGETS)]
    with pytest.raises(TargetsFull):
        targets.add(tenant, "https://hooks.example/")
    with targets.dashboard.tenant_tx(tenant.tenant_id) as tx:
        tx.targets.remove(made[4])
    targets.add(tenant, "https://hooks.example/")


_SWEEP_ONCE = f"""
from temporalio.testing import ActivityEnvironment
from config.settings import load_settings
from tests.activities.provisioning import Provisioning
from worker import wiring
Provisioning(wiring.build(load_settings()), "acme-corp").run_platform("{SWEEP}")
"""


def test_worker_killed_during_a_delivery_repeats_it_with_the_same_id(
    targets, request_tenant, settings, receiver, make_due
) -> None:
    tenant = request_tenant("acme-corp")
    target_id, _ = targets.add(tenant, receiver.url)
    store(tenant, operation="lock-1")
    store(tenant, operation="lock-2")
    make_due()
    with receiver.holding():
        killed = subprocess.Popen([sys.executable, "-c", _SWEEP_ONCE], cwd=ROOT, env=process_environment(settings))
        wait_until(lambda: receiver.taken, seconds=60)
        killed.kill()
        killed.wait()
    make_due()
    tenant.run_platform(SWEEP)
    first, second = (message_id("acme-corp", f"lock-{n}", NotificationKind.LOCKED, target_id) for n in (1, 2))
    assert [taken.headers["webhook-id"] for taken in receiver.taken] == [first, first, second]


class CrashingOutbox(NotificationOutbox):
    """Crashes before its n-th row."""

    rows_left: ClassVar[int] = 0

    def add(self, *arguments: Any) -> str:
        if CrashingOutbox.rows_left == 0:
            raise CrashError
        CrashingOutbox.rows_left -= 1
        return NotificationOutbox.add(self, *arguments)


class CrashError(Exception):
    """The process ends between two rows."""


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sets(st.sampled_from(EVERY), min_size=1), max_size=3),
    st.lists(st.tuples(st.sampled_from(EVERY), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_each_event_reaches_each_selected_target_once_after_crashes(
    targets, request_tenant, selections, events
) -> None:
    """The same operation runs again after a crash at any of its rows."""
    tenant = request_tenant()
    chosen = {targets.add(tenant, "https://hooks.example/", events=events_of)[0]: events_of for events_of in selections}
    for number, (kind, crash_at) in enumerate(events):
        CrashingOutbox.rows_left = crash_at
        with suppress(CrashError):
            store(tenant, kind, f"operation-{number}", CrashingOutbox(OUTBOX.channels, OUTBOX.base_url))
        store(tenant, kind, f"operation-{number}")
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        stored = [(one.kind, one.target_id or one.channel) for one, _ in tx.outbox.all()]
    expected = []
    for kind, _ in events:
        wanting = [target for target, events_of in chosen.items() if kind in events_of]
        expected += [(kind, receiver) for receiver in (Channel.CALLBACK, *(wanting or [Channel.EMAIL]))]
    assert sorted(stored) == sorted(expected)


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (lambda tx, theirs: tx.targets.get(theirs), TargetUnknown),
        (lambda tx, theirs: tx.targets.mute(theirs, frozenset({"locked"})), TargetUnknown),
        (lambda tx, theirs: tx.targets.pause(theirs, paused=True), TargetUnknown),
        (lambda tx, theirs: tx.targets.replace_secret(theirs, 2, "sealed"), TargetUnknown),
        (lambda tx, theirs: tx.targets.remove(theirs), TargetUnknown),
    ],
)
def test_tenant_cannot_read_or_change_anothers_target(targets, request_tenant, receiver, attack, error) -> None:
    attacker, victim = request_tenant(), request_tenant()
    theirs, _ = targets.add(victim, receiver.url)
    with targets.dashboard.tenant_tx(victim.tenant_id) as tx:
        before = list(tx.targets.all())
    with targets.dashboard.tenant_tx(attacker.tenant_id) as tx:
        assert list(tx.targets.all()) == []
        assert tx.targets.addresses() == {}
    with pytest.raises(error), targets.dashboard.tenant_tx(attacker.tenant_id) as tx:
        attack(tx, theirs)
    with targets.dashboard.tenant_tx(victim.tenant_id) as tx:
        assert list(tx.targets.all()) == before


def test_tenant_cannot_trigger_anothers_target_or_message(targets, request_tenant, receiver) -> None:
    attacker, victim = request_tenant(), request_tenant()
    own, _ = targets.add(attacker, receiver.url)
    theirs, _ = targets.add(victim, receiver.url)
    store(victim)
    [message] = [one.message_id for one in log_of(victim) if one.target_id]
    with pytest.raises(TargetUnknown):
        deliver(attacker, theirs)
    with pytest.raises(DeliveryUnknown):
        deliver(attacker, own, message)
    assert receiver.taken == []
    assert log_of(attacker) == []


def test_signing_secrets_survive_the_replacement_of_the_intake_key(targets, request_tenant, settings, receiver) -> None:
    tenant = request_tenant()
    target_id, first = targets.add(tenant, receiver.url)
    second = targets.rotate(tenant, target_id)
    add_new_values(settings.secrets, [secrets.INTAKE_KEY])
    during = wiring.build(settings)
    with closing(during.database):
        Provisioning(during, tenant.tenant_id).run_platform(SWEEP)
    remove_former_values(settings.secrets, [secrets.INTAKE_KEY])
    after = wiring.build(settings)
    with closing(after.database):
        deliver(Provisioning(after, tenant.tenant_id), target_id)
    assert [is_signed(receiver.taken[-1], secret) for secret in (first, second)] == [True, True]


@pytest.mark.unit
def test_new_event_of_a_group_is_on_unless_the_group_is_off() -> None:
    muted = muted_for([NotificationKind.LOCKED])
    assert NotificationKind.UNLOCKED in muted
    assert "group:keys" in muted
    assert "group:security" not in muted
    assert selected(muted) == {NotificationKind.LOCKED}


@pytest.mark.unit
@given(st.sets(st.sampled_from(EVERY), min_size=1))
def test_selection_is_kept(chosen) -> None:
    assert selected(muted_for(chosen)) == chosen
