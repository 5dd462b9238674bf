"""Messages to the customer, stored in the transaction of what they tell of; `notifications` sends them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core import names as ids
from core.messages.base import StepInput
from core.notifications import Announcement, AnnouncementKind, Channel, announcement_text, dashboard_url, message_id
from database.connection.transaction import TenantTransaction
from database.tenants import TenantRow


@dataclass(frozen=True, slots=True)
class Announcer:
    """Over which channels customers are told, and where their page is."""

    channels: Sequence[Channel]
    base_url: str

    def store(
        self,
        tx: TenantTransaction,
        step: StepInput,
        row: TenantRow,
        kind: AnnouncementKind,
        until: datetime | None = None,
    ) -> bool:
        """Store one message for each channel; False when there is nobody to tell. `until`: of one who leaves."""
        if step.tenant_id in ids.PLATFORM_TENANTS:  # nobody enabled it
            return False
        subject, body = announcement_text(kind, row.organization, dashboard_url(self.base_url, step.tenant_id), until)
        for channel in self.channels:
            tx.outbox.add(
                Announcement(
                    message_id=message_id(step.tenant_id, step.operation_id, kind, channel),
                    tenant_id=step.tenant_id,
                    channel=channel,
                    kind=kind,
                    subject=subject,
                    body=body,
                )
            )
        return bool(self.channels)
