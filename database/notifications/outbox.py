"""The transactional outbox: a notification is stored in the transaction of its cause and sent by a separate process.

The unsent messages of a tenant to a receiver are a queue. Only its oldest message is attempted, so a receiver gets the
messages of a tenant in their order. Test messages to a target have a separate queue.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from core.notifications import Channel, Notification, NotificationKind
from database.repository import Repository

_COLUMNS = "message_id, tenant_id, channel, kind, subject, body, target_id"
_DELIVERY = (
    "select message_id, channel, target_id, kind, added_at, attempts, next_try, problem, response, sent_at, expired_at"
    " from okcm.outbox"
)
_WAITING = "sent_at is null and expired_at is null"
# The outer conditions are evaluated again after the row is locked: of two processes only one claims the message.
_CLAIM = (
    "update okcm.outbox set attempts = attempts + 1, next_try = clock_timestamp() + %s"  # noqa: S608 - constants
    f" where message_id = (select message_id from okcm.outbox where channel = %s"
    f"  and target_id is not distinct from %s and (kind = 'test') = %s and {_WAITING}"
    "  order by added_at, message_id limit 1)"
    f" and {_WAITING} and next_try <= clock_timestamp() returning {_COLUMNS}, attempts"
)


class MessageQueue(NamedTuple):
    """The messages to one receiver of a tenant, which are sent in their order."""

    channel: Channel
    target_id: str | None = None
    of_tests: bool = False


class Delivery(NamedTuple):
    """A message in the delivery log, without its text. It is unsent without `sent_at` and `expired_at`."""

    message_id: str
    channel: Channel
    target_id: str | None
    kind: NotificationKind
    added_at: datetime
    attempts: int
    next_try: datetime
    problem: str | None
    response: int | None
    sent_at: datetime | None
    expired_at: datetime | None


class DeliveryAttempt(NamedTuple):
    """A message that the caller alone may send now; `number` counts its attempts from 1."""

    notification: Notification
    number: int


class UndeliveredNotification(NamedTuple):
    """A message that its receiver did not accept. With `expired_at` it is a dead letter: it is no longer attempted."""

    tenant_id: str
    message_id: str
    channel: Channel
    kind: NotificationKind
    added_at: datetime
    attempts: int
    next_try: datetime
    problem: str
    expired_at: datetime | None


class Outbox(Repository):
    def add(self, notification: Notification) -> None:
        """Store a notification to be sent; a repeated message id changes nothing."""
        self.connection.execute(
            f"insert into okcm.outbox ({_COLUMNS}) values (%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - a constant
            " on conflict do nothing",
            [
                notification.message_id,
                notification.tenant_id,
                notification.channel,
                notification.kind,
                notification.subject,
                notification.body,
                notification.target_id,
            ],
        )

    def unsent(self) -> Sequence[Notification]:
        """Return the messages that are still to be sent, oldest first."""
        rows = self.connection.execute(
            f"select {_COLUMNS} from okcm.outbox where {_WAITING} order by added_at, message_id"  # noqa: S608 - constants
        )
        return [_notification(row) for row in rows]

    def queues_of_targets(self, *, failed: bool = True) -> Sequence[MessageQueue]:
        """Return the queues of targets with unsent messages; without `failed` not those that already failed."""
        rows = self.connection.execute(
            "select channel, target_id, of_tests from (select distinct on (target_id, kind = 'test') channel,"  # noqa: S608 - a constant
            f" target_id, kind = 'test' as of_tests, attempts from okcm.outbox where {_WAITING}"
            " and target_id is not null"
            " order by target_id, kind = 'test', added_at, message_id) as oldest where %s or attempts = 0",
            [failed],
        )
        return [MessageQueue(Channel(channel), target_id, of_tests) for channel, target_id, of_tests in rows]

    def claim(
        self, channel: Channel, lease: timedelta, target_id: str | None = None, *, of_tests: bool = False
    ) -> DeliveryAttempt | None:
        """Return the oldest unsent message of a queue for one attempt; None if it is not due.

        No other caller gets the message until `lease` has passed or the attempt is recorded as failed.
        """
        row = self.connection.execute(_CLAIM, [lease, channel, target_id, of_tests]).fetchone()
        return None if row is None else DeliveryAttempt(_notification(row[:-1]), row[-1])

    def mark_sent(self, message_id: str, response: int | None = None) -> None:
        """Record that the receiver accepted a message; `response` is the HTTP status."""
        self.connection.execute(
            "update okcm.outbox set sent_at = clock_timestamp(), expired_at = null, response = %s"
            " where message_id = %s and sent_at is null",
            [response, message_id],
        )

    def record_failure(self, message_id: str, problem: str, delay: timedelta, expires_after: timedelta) -> bool:
        """Record a failed attempt; the next one is due after `delay`. Return True if the message has expired instead.

        A message expires at its first failed attempt when it is older than `expires_after`.
        """
        row = self.connection.execute(
            "update okcm.outbox set problem = %s, next_try = clock_timestamp() + %s,"  # noqa: S608 - a constant
            " expired_at = case when added_at <= clock_timestamp() - %s then clock_timestamp() end"
            f" where message_id = %s and {_WAITING} returning expired_at",
            [problem, delay, expires_after, message_id],
        ).fetchone()
        return row is not None and row[0] is not None

    def retry_expired(self) -> int:
        """Make the tenant's dead letters due again, for one attempt each; return their number."""
        retried = self.connection.execute(
            "update okcm.outbox set expired_at = null, next_try = clock_timestamp() where expired_at is not null"
        )
        return retried.rowcount

    def retry(self, message_id: str) -> MessageQueue | None:
        """Make an unsent message or dead letter to a target due, with the messages before it; None without one."""
        row = self.connection.execute(
            "update okcm.outbox set expired_at = null, next_try = clock_timestamp()"
            " where message_id = %s and sent_at is null and target_id is not null"
            " returning channel, target_id, kind = 'test'",
            [message_id],
        ).fetchone()
        if row is None:
            return None
        channel, target_id, of_tests = row
        self.connection.execute(
            f"update okcm.outbox set next_try = clock_timestamp() where {_WAITING}"  # noqa: S608 - a constant
            " and target_id = %s and (kind = 'test') = %s and next_try > clock_timestamp()",
            [target_id, of_tests],
        )
        return MessageQueue(Channel(channel), target_id, of_tests)

    def recent_tests(self) -> int:
        """Return the number of test messages that were stored within the last minute."""
        row = self.connection.execute(
            "select count(*) from okcm.outbox where kind = 'test'"
            " and added_at > clock_timestamp() - interval '1 minute'"
        ).fetchone()
        return 0 if row is None else int(row[0])

    def delivery(self, message_id: str) -> Delivery | None:
        """Return one message of the delivery log; None if it does not exist."""
        row = self.connection.execute(f"{_DELIVERY} where message_id = %s", [message_id]).fetchone()
        return None if row is None else _delivery(row)

    def deliveries(self, limit: int, *, to_targets: bool = False) -> Sequence[Delivery]:
        """Return the newest messages to the customer, without those to the marketplace; or only those to targets."""
        rows = self.connection.execute(
            f"{_DELIVERY} where channel <> 'callback' and (target_id is not null or not %s)"
            " order by added_at desc, message_id limit %s",
            [to_targets, limit],
        )
        return [_delivery(row) for row in rows]

    def all(self) -> Sequence[tuple[Notification, datetime | None]]:
        """Return every notification and the time when it was sent, None if it is unsent."""
        rows = self.connection.execute(
            f"select {_COLUMNS}, sent_at from okcm.outbox order by added_at"  # noqa: S608 - a constant
        )
        return [(_notification(row), sent_at) for *row, sent_at in rows]


def _notification(row: Sequence[Any]) -> Notification:
    message_id, tenant_id, channel, kind, subject, body, target_id = row
    return Notification(
        message_id=message_id,
        tenant_id=tenant_id,
        channel=Channel(channel),
        kind=NotificationKind(kind),
        subject=subject,
        body=body,
        target_id=target_id,
    )


def _delivery(row: Sequence[Any]) -> Delivery:
    message_id, channel, target_id, kind, *rest = row
    return Delivery(message_id, Channel(channel), target_id, NotificationKind(kind), *rest)
