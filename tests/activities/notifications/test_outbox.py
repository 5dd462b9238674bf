"""The outbox with receivers that fail or do not answer: isolation, order, retries, dead letters, a killed worker."""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.notifications import NotificationActivities, NotificationOutbox
from activities.runtime.metrics import Metrics
from config.settings import Settings
from core.errors.platform import NotificationUndelivered
from core.notifications import Channel, Notification, NotificationKind, retry_delay
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.notifications import UndeliveredNotification
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from tests.activities.counting import Counted
from tests.activities.notifications.receiving import Mailbox, no_targets
from tests.activities.provisioning import Provisioning
from tests.concurrency import at_once, wait_until
from tests.database.builders import an_announcement
from tests.database.fixtures import Field
from tests.e2e.receivers import CallbackReceiver
from tests.worker.conftest import process_environment
from worker import wiring
from workflows.runtime.timeouts import HEARTBEAT

ROOT = Path(__file__).parents[3]
SWEEP = "dispatch-outbox"
DAYS = timedelta(days=30)


@pytest.fixture
def settings(settings: Settings, callback: CallbackReceiver, mailbox: Mailbox) -> Settings:
    return settings.model_copy(update={"callback_url": callback.url, "smtp_port": mailbox.port})


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def parts(settings: Settings, counted: Counted) -> Iterator[wiring.WorkerDependencies]:
    """Return a worker whose counters the test reads; these tests use no key server."""
    built = wiring.build(settings, meter=counted)
    yield built
    built.database.close()


@pytest.fixture
def make_due(field: Field) -> Callable[[], None]:
    """Return a function that lets two minutes pass for every message."""

    def make_due() -> None:
        with field.administrator() as administrator:
            administrator.execute(
                "update okcm.outbox set added_at = added_at - interval '2 minutes',"
                " next_try = next_try - interval '20 minutes'"
            )

    return make_due


Store = Callable[..., None]


@pytest.fixture
def store(make_due: Callable[[], None]) -> Store:
    """Return a function that stores one message for each subject, which no operation sends."""

    def store(tenant: Provisioning, channel: Channel, *subjects: str) -> None:
        for subject in subjects:
            message_id = f"{channel}-{subject}"
            with tenant.database.tenant_tx(tenant.tenant_id) as tx:
                tx.outbox.add(an_announcement(tenant.tenant_id, message_id, channel=channel, subject=subject))
        make_due()

    return store


def subjects(mailbox: Mailbox, tenant: Provisioning) -> list[str]:
    return [str(mail["Subject"]) for mail in mailbox.about(tenant.tenant_id, "")]


def undelivered(database: Database) -> list[UndeliveredNotification]:
    return list(PlatformQueries(database).undelivered_notifications(DAYS, 9))


@contextmanager
def sweeping(tenant: Provisioning) -> Iterator[list[float]]:
    """Run a sweep in a thread; yield the times of its heartbeats and, at its end, the time of the end."""
    beats = [time.monotonic()]
    environment = ActivityEnvironment()
    environment.on_heartbeat = lambda *_: beats.append(time.monotonic())
    sweep = threading.Thread(target=environment.run, args=[tenant.activity(SWEEP)])
    sweep.start()
    yield beats
    sweep.join(120)
    assert not sweep.is_alive()
    beats.append(time.monotonic())


def test_receivers_that_do_not_answer_delay_only_their_own_messages(store, request_tenant, callback, mailbox):
    stuck, healthy = request_tenant("stuck-corp"), request_tenant("waiting-corp")
    store(stuck, Channel.EMAIL, "first", "second")
    store(stuck, Channel.CALLBACK, "third", "fourth")
    store(healthy, Channel.EMAIL, "healthy")
    mailbox.silent.add("stuck-corp")
    with callback.holding(), sweeping(healthy) as beats:
        wait_until(lambda: subjects(mailbox, healthy), seconds=4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert max(gaps) < HEARTBEAT.total_seconds() / 3
    assert subjects(mailbox, stuck) == []


def test_messages_of_a_tenant_arrive_in_order_after_their_receiver_failed(store, request_tenant, mailbox, make_due):
    tenant = request_tenant()
    store(tenant, Channel.EMAIL, "first", "second", "third")
    mailbox.rejections += ["451 try later", "550 unknown user"]
    for _ in range(2):
        make_due()
        tenant.run_platform(SWEEP)
        assert subjects(mailbox, tenant) == []
    make_due()
    tenant.run_platform(SWEEP)
    assert subjects(mailbox, tenant) == ["first", "second", "third"]


def test_rejected_message_blocks_its_queue_only_until_it_expires(  # noqa: PLR0917 - one for each fixture
    store, counted, tenant, mailbox, operator, field
) -> None:
    store(tenant, Channel.EMAIL, "first", "second")
    mailbox.answer = "451 try later"
    delays = []
    for _ in range(3):
        tenant.run_platform(SWEEP)
        [row] = undelivered(operator)
        delays.append(round((row.next_try - datetime.now(UTC)).total_seconds()))
        tenant.run_platform(SWEEP)  # the message is not due
        with field.administrator() as administrator:
            administrator.execute("update okcm.outbox set next_try = now()")
    assert delays == [1, 2, 4]
    assert (row.message_id, row.attempts, row.expired_at) == ("email-first", 3, None)
    assert row.problem == "the mail server does not accept the message"
    assert len(mailbox.mails) == 3

    with field.administrator() as administrator:
        administrator.execute("update okcm.outbox set added_at = added_at - interval '73 hours'")
    tenant.run_platform(SWEEP)
    mailbox.answer = "250 taken"
    tenant.run_platform(SWEEP)
    tenant.run_platform(SWEEP)
    assert subjects(mailbox, tenant) == ["first"] * 4 + ["second"]
    [expired] = undelivered(operator)
    assert (expired.message_id, expired.attempts, expired.expired_at is None) == ("email-first", 4, False)
    [record] = tenant.records(AuditName.ANNOUNCE_EXPIRED)
    assert (record["subject"], record["outcome"]) == ("email-first", "failure")
    assert record["details"] == {"channel": "email", "kind": "ready", "attempts": "4"}
    assert counted.of("openkcm_notifications_undelivered") == [{"channel": "email", "stage": "expired"}]


def test_late_message_is_counted_once(store, counted, request_tenant, mailbox, field) -> None:
    tenant = request_tenant()
    store(tenant, Channel.EMAIL, "first")
    mailbox.answer = "550 unknown user"
    for attempts in (8, 9, 10):
        with field.administrator() as administrator:
            administrator.execute("update okcm.outbox set next_try = now(), attempts = %s", [attempts])
        tenant.run_platform(SWEEP)
    assert counted.of("openkcm_notifications_undelivered") == [{"channel": "email", "stage": "late"}]


class FailingSender:
    def send(self, notification: Notification) -> None:
        raise RuntimeError(f"a defect of the sender, with {notification.body}")


def test_message_on_which_the_sender_itself_fails_expires_and_reveals_nothing(store, request_tenant, parts, operator):
    tenant = request_tenant()
    store(tenant, Channel.EMAIL, "first", "second")
    senders, metrics = {Channel.EMAIL: FailingSender()}, Metrics(MetricMeter.noop)
    activities = NotificationActivities(
        *(parts.database, parts.queries, senders, no_targets(), NotificationOutbox((), "")),
        timedelta(0),
        lambda: datetime.now(UTC),
        metrics,
    )
    for _ in range(2):
        ActivityEnvironment().run(activities.sweep_outbox)
    assert [(row.message_id, row.problem, row.expired_at is None) for row in undelivered(operator)] == [
        ("email-second", "the message cannot be sent: internal error", False),
        ("email-first", "the message cannot be sent: internal error", False),
    ]


def test_message_on_a_channel_without_a_sender_is_shown_to_operators_and_expires(
    store, request_tenant, settings, operator, field
) -> None:
    parts = wiring.build(settings.model_copy(update={"callback_url": None}))
    with closing(parts.database):
        tenant = Provisioning(parts, request_tenant().tenant_id)
        store(tenant, Channel.CALLBACK, "first")
        tenant.run(Step.ANNOUNCE, kind=NotificationKind.LATE)  # an operation does not wait for it
        tenant.run_platform(SWEEP)
        [row] = undelivered(operator)
        assert (row.problem, row.expired_at) == ("the channel is not configured", None)
        with field.administrator() as administrator:
            administrator.execute("update okcm.outbox set added_at = now() - interval '73 hours', next_try = now()")
        tenant.run_platform(SWEEP)
        assert len(tenant.records(AuditName.ANNOUNCE_EXPIRED)) == 1
    assert undelivered(operator)[0].expired_at is not None


def test_concurrent_sweeps_and_operations_send_each_message_once_and_in_order(store, request_tenant, mailbox, callback):
    tenant = request_tenant()
    names = [f"message {number}" for number in range(6)]
    for channel in (Channel.CALLBACK, Channel.EMAIL):
        store(tenant, channel, *names)

    def announce() -> None:
        try:
            tenant.run(Step.ANNOUNCE, kind=NotificationKind.LATE)
        except NotificationUndelivered:
            return

    at_once(*[lambda: tenant.run_platform(SWEEP)] * 3, announce, announce)
    tenant.run(Step.ANNOUNCE, kind=NotificationKind.LATE)
    assert subjects(mailbox, tenant) == names
    assert [taken.event["data"]["subject"] for taken in callback.taken] == names


def test_operations_do_not_wait_for_a_receiver_that_is_down(store, request_tenant, callback, mailbox):
    waiting, tenant, later = [request_tenant() for _ in range(3)], request_tenant(), request_tenant()
    for one in (*waiting, tenant):
        store(one, Channel.CALLBACK, one.tenant_id)
    store(tenant, Channel.EMAIL, "mail")

    def announce(one: Provisioning) -> None:
        with pytest.raises(NotificationUndelivered):
            one.run(Step.ANNOUNCE, kind=NotificationKind.LATE)

    with callback.holding():
        at_once(*(partial(announce, one) for one in waiting))
        began = time.monotonic()
        announce(tenant)
        assert time.monotonic() - began < 3
        assert len(callback.taken) == len(waiting), "the operation makes no request to a receiver that is down"
        assert subjects(mailbox, tenant) == ["mail"]
    tenant.run_platform(SWEEP)
    store(later, Channel.CALLBACK, "later")
    later.run(Step.ANNOUNCE, kind=NotificationKind.LATE)
    assert callback.about(later.tenant_id, NotificationKind.READY)


_SWEEP_ONCE = f"""
from temporalio.testing import ActivityEnvironment
from config.settings import load_settings
from tests.activities.provisioning import Provisioning
from worker import wiring
Provisioning(wiring.build(load_settings()), "acme-corp").run_platform("{SWEEP}")
"""


def test_worker_killed_while_it_sends_repeats_only_that_message(store, request_tenant, settings, callback, make_due):
    tenant = request_tenant("acme-corp")
    store(tenant, Channel.CALLBACK, "first", "second", "third")
    with callback.holding():
        killed = subprocess.Popen([sys.executable, "-c", _SWEEP_ONCE], cwd=ROOT, env=process_environment(settings))
        wait_until(lambda: callback.taken, seconds=60)
        killed.kill()
        killed.wait()
    tenant.run_platform(SWEEP)
    assert len(callback.taken) == 1, "the message of the killed worker is not due yet"
    make_due()
    tenant.run_platform(SWEEP)
    assert [taken.headers["webhook-id"] for taken in callback.taken] == [
        f"callback-{subject}" for subject in ("first", "first", "second", "third")
    ]


@pytest.mark.unit
def test_delays_between_attempts_grow_up_to_a_quarter_of_an_hour():
    delays = [retry_delay(attempts).total_seconds() for attempts in (1, 2, 5, 10, 11, 10_000)]
    assert delays == [1, 2, 16, 512, 900, 900]
