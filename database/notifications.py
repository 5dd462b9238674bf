"""The transactional outbox: a notification is stored in the transaction of its cause and sent by a separate process.

The unsent messages of a tenant on a channel are a queue. Only its oldest message is attempted, so a receiver gets the
messages of a tenant in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from core.notifications import Channel, Notification, NotificationKind

_COLUMNS = "message_id, tenant_id, channel, kind, subject, body"
_WAITING = "sent_at is null and expired_at is null"
# The outer conditions are evaluated again after the row is locked: of two processes only one claims the message.
_CLAIM = (
    "update okcm.outbox set attempts = attempts + 1, next_try = clock_timestamp() + %s"  # noqa: S608 - constants
    f" where message_id = (select message_id from okcm.outbox where channel = %s and {_WAITING}"
    "  order by added_at, message_id limit 1)"
    f" and {_WAITING} and next_try <= clock_timestamp() returning {_COLUMNS}, attempts"
)


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """A message that the caller alone may send now; `number` counts its attempts from 1."""

    notification: Notification
    number: int


@dataclass(frozen=True, slots=True)
class UndeliveredNotification:
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


@dataclass(frozen=True, slots=True)
class Outbox:
    connection: Connection[TupleRow]
    tenant_id: str

    def add(self, notification: Notification) -> None:
        """Store a notification to be sent; a repeated message id changes nothing."""
        self.connection.execute(
            f"insert into okcm.outbox ({_COLUMNS}) values (%s, %s, %s, %s, %s, %s)"  # noqa: S608 - a constant
            " on conflict do nothing",
            [
                notification.message_id,
                notification.tenant_id,
                notification.channel,
                notification.kind,
                notification.subject,
                notification.body,
            ],
        )

    def unsent(self) -> Sequence[Notification]:
        """Return the messages that are still to be sent, oldest first."""
        rows = self.connection.execute(
            f"select {_COLUMNS} from okcm.outbox where {_WAITING} order by added_at, message_id"  # noqa: S608 - constants
        )
        return [_notification(row) for row in rows]

    def claim(self, channel: Channel, lease: timedelta) -> DeliveryAttempt | None:
        """Return the oldest unsent message of the channel for one attempt; None if it is not due.

        No other caller gets the message until `lease` has passed or the attempt is recorded as failed.
        """
        row = self.connection.execute(_CLAIM, [lease, channel]).fetchone()
        return None if row is None else DeliveryAttempt(_notification(row[:-1]), row[-1])

    def mark_sent(self, message_id: str) -> None:
        self.connection.execute(
            "update okcm.outbox set sent_at = clock_timestamp(), expired_at = null"
            " where message_id = %s and sent_at is null",
            [message_id],
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

    def all(self) -> Sequence[tuple[Notification, datetime | None]]:
        """Return every notification and the time when it was sent, None if it is unsent."""
        rows = self.connection.execute(
            f"select {_COLUMNS}, sent_at from okcm.outbox order by added_at"  # noqa: S608 - a constant
        )
        return [(_notification(row), sent_at) for *row, sent_at in rows]


def _notification(row: Sequence[Any]) -> Notification:
    message_id, tenant_id, channel, kind, subject, body = row
    return Notification(
        message_id=message_id,
        tenant_id=tenant_id,
        channel=Channel(channel),
        kind=NotificationKind(kind),
        subject=subject,
        body=body,
    )
