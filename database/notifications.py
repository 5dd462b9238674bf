"""The transactional outbox: a notification is stored in the transaction of its cause and sent by a separate process."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from core.notifications import Channel, Notification, NotificationKind

_COLUMNS = "message_id, tenant_id, channel, kind, subject, body"


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
        rows = self.connection.execute(
            f"select {_COLUMNS} from okcm.outbox where sent_at is null order by added_at"  # noqa: S608 - a constant
        )
        return [_notification(row) for row in rows]

    def mark_sent(self, message_id: str) -> None:
        self.connection.execute(
            "update okcm.outbox set sent_at = clock_timestamp() where message_id = %s and sent_at is null", [message_id]
        )

    def all(self) -> Sequence[tuple[Notification, datetime | None]]:
        """Return every notification and the time when it was sent, None if it is unsent."""
        rows = self.connection.execute(
            f"select {_COLUMNS}, sent_at from okcm.outbox order by added_at"  # noqa: S608 - a constant
        )
        return [(_notification(row), sent_at) for *row, sent_at in rows]


def _notification(row: Sequence[str]) -> Notification:
    message_id, tenant_id, channel, kind, subject, body = row
    return Notification(
        message_id=message_id,
        tenant_id=tenant_id,
        channel=Channel(channel),
        kind=NotificationKind(kind),
        subject=subject,
        body=body,
    )
