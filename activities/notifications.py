"""Step 6 and every other message: what lies in the outbox is sent, with the same message id however often."""

from collections.abc import Mapping
from typing import Protocol

from temporalio import activity

from activities.journal import Clock, finish, record
from core.errors.platform import AnnouncementUndelivered
from core.messages.base import AnnounceInput, StepInput
from core.notifications import Announcement, AnnouncementKind, Channel
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName

_BATCH = 200


class Sender(Protocol):
    """One channel. A receiver drops what it has seen by the message id, which is the same at every attempt."""

    def send(self, announcement: Announcement) -> None:
        """Hand the message over; raises AnnouncementUndelivered when it was not taken."""
        ...


class NotificationActivities:
    def __init__(
        self, database: Database, platform: PlatformQueries, senders: Mapping[Channel, Sender], clock: Clock
    ) -> None:
        self._database = database
        self._platform = platform
        self._senders = senders
        self._clock = clock

    @activity.defn(name=Step.ANNOUNCE)
    def announce(self, step: AnnounceInput) -> None:
        """Send the tenant's waiting messages; done when none is left."""
        began = self._clock()
        if not self._deliver(step):
            raise AnnouncementUndelivered
        if step.kind is AnnouncementKind.READY:
            with self._database.tenant_tx(step.tenant_id) as tx:
                finish(tx, step, Step.ANNOUNCE, began)

    @activity.defn(name="sweep-outbox")
    def sweep_outbox(self) -> None:
        """Send what an operation could not send in its own time; what still fails waits for the next sweep."""
        for tenant_id in self._platform.waiting_outboxes(_BATCH):
            self._deliver(StepInput(tenant_id=tenant_id, operation_id="outbox"))
            activity.heartbeat(tenant_id)

    def _deliver(self, step: StepInput) -> bool:
        """Send on every channel; one channel's failure does not hold up another. False when something is left.

        A message is marked sent after it was taken: dying in between sends it once more with the same message id,
        which is what receivers are told to drop duplicates by.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            waiting = tx.outbox.unsent()
        delivered = True
        for message in waiting:
            sender = self._senders.get(message.channel)
            if sender is None:
                continue
            try:
                sender.send(message)
            except AnnouncementUndelivered:
                delivered = False
                continue
            with self._database.tenant_tx(step.tenant_id) as tx:
                tx.outbox.mark_sent(message.message_id)
                record(tx, step, AuditName.ANNOUNCED, message.message_id, channel=message.channel, kind=message.kind)
        return delivered
