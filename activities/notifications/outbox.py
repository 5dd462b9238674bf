"""Storage of a notification: one message for each receiver, in the transaction of the cause."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core import names as ids
from core.messages.base import StepInput
from core.notifications import Channel, Notification, NotificationKind, announcement_text, dashboard_url, message_id
from database.connection.transaction import TenantTransaction
from database.tenants import TenantRow


@dataclass(frozen=True, slots=True)
class NotificationOutbox:
    """The platform's channels on which customers are notified, and the address of their dashboard."""

    channels: Sequence[Channel]
    base_url: str

    def store(
        self,
        tx: TenantTransaction,
        step: StepInput,
        row: TenantRow,
        kind: NotificationKind,
        until: datetime | None = None,
    ) -> bool:
        """Store one message for each receiver; False without one. `until` is the end of the grace period.

        Targets that have the event replace the platform's e-mail, which otherwise gets it. So no event is lost by a
        wrong selection. The marketplace's callback gets every event.
        """
        if step.tenant_id in ids.PLATFORM_TENANTS:  # no customer enabled it
            return False
        targets = [target for target in tx.targets.all() if target.wants(kind)]
        receivers: list[tuple[Channel, str | None]] = [
            (channel, None) for channel in self.channels if not (targets and channel is Channel.EMAIL)
        ]
        receivers += [(target.kind.channel, target.target_id) for target in targets]
        for channel, target_id in receivers:
            self.add(tx, step, row, kind, channel, target_id, until)
        return bool(receivers)

    def add(  # noqa: PLR0913, PLR0917 - the message, its cause and its receiver
        self,
        tx: TenantTransaction,
        step: StepInput,
        row: TenantRow,
        kind: NotificationKind,
        channel: Channel,
        target_id: str | None,
        until: datetime | None = None,
    ) -> str:
        """Store the message to one receiver and return its id; a repeated operation changes nothing."""
        subject, body = announcement_text(kind, row.organization, dashboard_url(self.base_url, step.tenant_id), until)
        notification = Notification(
            message_id=message_id(step.tenant_id, step.operation_id, kind, target_id or channel),
            tenant_id=step.tenant_id,
            channel=channel,
            kind=kind,
            subject=subject,
            body=body,
            target_id=target_id,
        )
        tx.outbox.add(notification)
        return notification.message_id
