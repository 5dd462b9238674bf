"""Step 6 and all other notifications: stored in the transaction of their cause, sent from the outbox.

A receiver that does not answer delays only its own messages: each channel has separate threads, and each receiver of
each tenant a separate queue. An attempt has one deadline for all its reads and writes, so that a receiver that responds
byte by byte holds no thread. A queue keeps its order: a message is attempted only after its predecessor is sent or
expired. An attempt is recorded before it is made, so a worker that dies in it repeats one message of each running
attempt.

Each attempt sends the same message id where receivers expect it (`webhook-id` and the CloudEvent's `id`; `Message-ID`
in mail), so that they can drop duplicates. The senders are the marketplace's callback, the platform's mail to the
customer, and those of the targets that a tenant chose (`activities.notifications.targets`). An operation sends its
messages to targets but does not wait for them to be accepted. Each failure becomes NotificationUndelivered without the
text of its cause: addresses with credentials, responses and secrets must not reach a workflow history.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import structlog
from temporalio import activity

from activities.notifications.outbox import NotificationOutbox
from activities.notifications.targets import TargetSender
from activities.runtime.audit_trail import Clock, append_audit_event, complete_step
from activities.runtime.concurrency import ContextThreadPool
from activities.runtime.metrics import DeliveryStage, Metrics
from core.errors.notifications import DeliveryUnknown, TooManyTests
from core.errors.platform import NotificationUndelivered
from core.errors.tenants import TenantUnknown
from core.messages.base import AnnounceInput, StepInput
from core.messages.notifications import DeliverInput
from core.notifications import Channel, Notification, NotificationKind, retry_delay
from core.notifications.targets import TESTS_PER_MINUTE
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.notifications import DeliveryAttempt, MessageQueue
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError

_SENDS_AT_ONCE = 8
"""Concurrent sends on one channel of the platform, and to all e-mail targets."""
_WEBHOOKS_AT_ONCE = 16
"""Concurrent sends to webhooks. Each has a different receiver, of which many can be down at once."""
_MAX_QUEUES = 10_000
"""Queues of one channel in one sweep. A failed one is due later, so it keeps no other from the next sweep."""
_LEASE = timedelta(seconds=20)
"""Time after which the message of a dead worker is attempted again: longer than an attempt on any channel."""
_ANNOUNCE_SECONDS = 10.0
_SWEEP_SECONDS = 45.0
"""Time of one sweep. The schedule starts one each minute."""
_HEARTBEAT_SECONDS = 1.0
_SLOW_SECONDS = 1.0
"""A failure that takes longer holds a slot that other tenants' operations need."""
_SLOW_FAILURES = 3
_DOWN_SECONDS = 60.0
_LATE_ATTEMPT = 10
"""The failed attempt that counts a message as late: about eight minutes after the first one."""

log = structlog.get_logger()


class Sender(Protocol):
    """One channel of the platform. A receiver drops duplicates by the message id, the same in every attempt."""

    def send(self, notification: Notification) -> None:
        """Send the message; raises NotificationUndelivered when the receiver did not accept it."""
        ...


class ChannelHealth:
    """Whether a channel's receiver responds, by the newest attempts of this process. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slow_failures = 0
        self._down_until = 0.0

    @property
    def is_down(self) -> bool:
        """True for a minute after three failures that each took longer than a second, without a success between."""
        return time.monotonic() < self._down_until

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Measure an attempt; an exception is its failure."""
        began = time.monotonic()
        try:
            yield
        except Exception:
            now = time.monotonic()
            with self._lock:
                self._slow_failures += now - began > _SLOW_SECONDS
                if self._slow_failures >= _SLOW_FAILURES:
                    self._down_until = now + _DOWN_SECONDS
            raise
        with self._lock:
            self._slow_failures, self._down_until = 0, 0.0


class NotificationActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        senders: Mapping[Channel, Sender],
        targets: TargetSender,
        outbox: NotificationOutbox,
        expires_after: timedelta,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`expires_after` is the age at which a failed message becomes a dead letter."""
        self._database = database
        self._platform = platform
        self._senders = senders
        self._targets = targets
        self._outbox = outbox
        self._expires_after = expires_after
        self._clock = clock
        self._metrics = metrics
        self._health = {channel: ChannelHealth() for channel in Channel if not channel.is_of_target}

    @activity.defn(name=Step.ANNOUNCE)
    def announce(self, step: AnnounceInput) -> None:
        """Send the tenant's unsent messages; done when none on the platform's channels is left.

        Only the sweep attempts a channel that is down, and a target that did not accept its last attempt. Otherwise
        each operation would wait for its receiver, in a slot that other tenants need.

        Raises:
            NotificationUndelivered: a message is left; it is due later, or another process is sending it.
        """
        began = self._clock()
        responding = [MessageQueue(channel) for channel in self._senders if not self._health[channel].is_down]
        with self._database.tenant_tx(step.tenant_id) as tx:
            responding += tx.outbox.queues_of_targets(failed=False)
        self._send([(step, queue) for queue in responding], _ANNOUNCE_SECONDS)
        with self._database.tenant_tx(step.tenant_id) as tx:
            if any(message.channel in self._senders for message in tx.outbox.unsent()):
                raise NotificationUndelivered
            if step.kind is NotificationKind.READY:
                complete_step(tx, step, Step.ANNOUNCE, began)

    @activity.defn(name="deliver-to-target")
    def deliver(self, request: DeliverInput) -> None:
        """Send a test message to a target, or attempt an unsent message again; its result is in the outbox afterwards.

        Raises:
            TargetUnknown, DeliveryUnknown: it does not exist any more.
            TooManyTests: the tenant requested too many tests; nothing was stored.
        """
        with self._database.tenant_tx(request.tenant_id) as tx:
            queue = self._test(tx, request) if request.message_id is None else tx.outbox.retry(request.message_id)
        if queue is None:
            raise DeliveryUnknown
        self._send([(request, queue)], _ANNOUNCE_SECONDS)

    def _test(self, tx: TenantTransaction, request: DeliverInput) -> MessageQueue:
        """Store a test message; a repeated request stores no second one."""
        row, target = tx.tenants.get(), tx.targets.get(request.target_id)
        if row is None:
            raise TenantUnknown
        queue = MessageQueue(target.kind.channel, target.target_id, of_tests=True)
        message = self._outbox.add(tx, request, row, NotificationKind.TEST, queue.channel, target.target_id)
        if tx.outbox.recent_tests() > TESTS_PER_MINUTE:
            raise TooManyTests
        tx.outbox.retry(message)  # an earlier test that failed would delay this one
        return queue

    @activity.defn(name="dispatch-outbox")
    def sweep_outbox(self) -> None:
        """Send all due messages that their operations did not send; what is left waits for the next sweep.

        Messages on a channel without a sender expire as any other, so that none stays unnoticed.
        """
        self._targets.renew_encryption(self._database, self._platform)
        due = [
            (tenant_id, MessageQueue(channel))
            for channel in self._health
            for tenant_id in self._platform.due_notifications(channel, _MAX_QUEUES)
        ]
        due += self._platform.due_deliveries(_MAX_QUEUES)
        self._send(
            [(StepInput(tenant_id=tenant, operation_id="outbox"), queue) for tenant, queue in due], _SWEEP_SECONDS
        )

    def _send(self, queues: Sequence[tuple[StepInput, MessageQueue]], seconds: float) -> None:
        """Send queues concurrently, each channel in separate threads, with heartbeats.

        No attempt begins after `seconds`. A failure of one queue stops no other; the first one is raised at the end.
        """
        until = time.monotonic() + seconds
        pools = {
            channel: ContextThreadPool(
                _WEBHOOKS_AT_ONCE
                if channel is Channel.TARGET_WEBHOOK and len(queues) > _SENDS_AT_ONCE
                else _SENDS_AT_ONCE
            )
            for channel in {queue.channel for _, queue in queues}
        }
        try:
            running: set[Future[None]] = {
                pools[queue.channel].submit(self._send_queue, step, queue, until) for step, queue in queues
            }
            every = list(running)
            while running:
                running = wait(running, _HEARTBEAT_SECONDS).not_done
                activity.heartbeat(len(running))
        finally:
            for pool in pools.values():
                pool.shutdown(cancel_futures=True)
        for ended in every:
            ended.result()

    def _send_queue(self, step: StepInput, queue: MessageQueue, until: float) -> None:
        """Send the messages of a queue in order, up to the first that is not accepted."""
        try:
            while time.monotonic() < until and self._attempt(step, queue):
                pass
        except OpenKcmError as failed:
            log.warning("notifications not sent", tenant_id=step.tenant_id, channel=queue.channel, code=failed.code)
            raise

    def _attempt(self, step: StepInput, queue: MessageQueue) -> bool:
        """Attempt the oldest message of a queue if it is due; return whether the next one may be attempted.

        A message is marked sent after the receiver accepted it. A crash in between sends it again with the same
        message id, by which receivers drop duplicates.
        """
        channel = queue.channel
        with self._database.tenant_tx(step.tenant_id) as tx:
            attempt = tx.outbox.claim(channel, _LEASE, queue.target_id, of_tests=queue.of_tests)
            target = None if queue.target_id is None else tx.targets.address_of(queue.target_id)
        if attempt is None:
            return False
        message = attempt.notification
        if queue.target_id is not None and (target is None or target.paused):
            problem = "the target was removed" if target is None else "the target is paused: resume it, then retry"
            self._record_failure(step, attempt, problem, timedelta(0))
            return True
        try:
            if target is None:
                with self._health[channel].attempt():
                    self._sender(channel).send(message)
                response = None
            else:
                response = self._targets.send(message, target)
        except NotificationUndelivered as failed:
            self._record_failure(step, attempt, failed.message, self._expires_after)
            return False
        except Exception as failed:  # noqa: BLE001 - a message on which its sender fails must not be attempted for ever
            # Without the text and the trace, which may contain an address or a response.
            facts = {"channel": channel, "message_id": message.message_id, "error": type(failed).__name__}
            log.error("sender failed", **facts)  # noqa: TRY400 - the reason above
            self._record_failure(step, attempt, "the message cannot be sent: internal error", self._expires_after)
            return False
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.outbox.mark_sent(message.message_id, response)
            append_audit_event(tx, step, AuditName.ANNOUNCED, message.message_id, "success", **_details(message))
        return True

    def _sender(self, channel: Channel) -> Sender:
        sender = self._senders.get(channel)
        if sender is None:
            raise NotificationUndelivered("the channel is not configured")
        return sender

    def _record_failure(
        self, step: StepInput, attempt: DeliveryAttempt, problem: str, expires_after: timedelta
    ) -> None:
        """Record a failed attempt; a message at the end of its time becomes a dead letter with an audit event."""
        message = attempt.notification
        with self._database.tenant_tx(step.tenant_id) as tx:
            expired = tx.outbox.record_failure(message.message_id, problem, retry_delay(attempt.number), expires_after)
            if expired:
                append_audit_event(
                    tx,
                    step,
                    AuditName.ANNOUNCE_EXPIRED,
                    message.message_id,
                    "failure",
                    **_details(message),
                    attempts=str(attempt.number),
                )
        if not expired and attempt.number != _LATE_ATTEMPT:
            return
        stage: DeliveryStage = "expired" if expired else "late"
        facts = {
            "tenant_id": step.tenant_id,
            "message_id": message.message_id,
            "channel": message.channel,
            "kind": message.kind,
            "stage": stage,
            "problem": problem,
        }
        if (
            message.channel.is_of_target
        ):  # the tenant's administrators see it in the dashboard, and only they can fix it
            log.info("notification not delivered to a target", **facts)
            return
        self._metrics.count_undelivered_notification(message.channel, stage)
        log.error("notification not delivered", **facts)


def _details(message: Notification) -> dict[str, str]:
    target = {} if message.target_id is None else {"target": message.target_id}
    return {"channel": message.channel, "kind": message.kind, **target}
