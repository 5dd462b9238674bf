"""Step 6 and every other message: what lies in the outbox is sent, with the same message id however often.

Messages to the customer, stored in the transaction of what they tell of; `notifications` sends them.

The senders behind `notifications.MarketplaceClient`: the marketplace's callback and the customer's mailbox.

Both say the message id in the place their receivers look for it (`webhook-id` and the CloudEvent's `id`; `Message-ID`),
so a message that is sent again is known again. Whatever goes wrong is NotificationUndelivered, without the cause's
text: addresses with credentials, answers and secrets would otherwise reach a workflow history.
"""

import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Literal, Protocol

import httpx2
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook
from temporalio import activity

from activities.audit_trail import Clock, append_audit_event, complete_step
from core import names as ids
from core.errors.platform import NotificationUndelivered, SettingsInvalid
from core.messages.base import AnnounceInput, StepInput
from core.notifications import Channel, Notification, NotificationKind, announcement_text, dashboard_url, message_id
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.platform.scheduled import PlatformQueries
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName

_BATCH = 200


class Sender(Protocol):
    """One channel. A receiver drops what it has seen by the message id, which is the same at every attempt."""

    def send(self, announcement: Notification) -> None:
        """Hand the message over; raises NotificationUndelivered when it was not taken."""
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
            raise NotificationUndelivered
        if step.kind is NotificationKind.READY:
            with self._database.tenant_tx(step.tenant_id) as tx:
                complete_step(tx, step, Step.ANNOUNCE, began)

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
            except NotificationUndelivered:
                delivered = False
                continue
            with self._database.tenant_tx(step.tenant_id) as tx:
                tx.outbox.mark_sent(message.message_id)
                append_audit_event(
                    tx, step, AuditName.ANNOUNCED, message.message_id, channel=message.channel, kind=message.kind
                )
        return delivered


@dataclass(frozen=True, slots=True)
class NotificationOutbox:
    """Over which channels customers are told, and where their page is."""

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
        """Store one message for each channel; False when there is nobody to tell. `until`: of one who leaves."""
        if step.tenant_id in ids.PLATFORM_TENANTS:  # nobody enabled it
            return False
        subject, body = announcement_text(kind, row.organization, dashboard_url(self.base_url, step.tenant_id), until)
        for channel in self.channels:
            tx.outbox.add(
                Notification(
                    message_id=message_id(step.tenant_id, step.operation_id, kind, channel),
                    tenant_id=step.tenant_id,
                    channel=channel,
                    kind=kind,
                    subject=subject,
                    body=body,
                )
            )
        return bool(self.channels)


_SECONDS = 5.0
SOURCE = "/openkcm"
TYPE_PREFIX = "io.openkcm.tenant."
_MAIL_ID_DOMAIN = "openkcm"

SmtpSecurity = Literal["none", "starttls", "tls"]


def _now() -> datetime:
    return datetime.now(UTC)


class CallbackSender:
    """Posts structured CloudEvents, signed as Standard Webhooks describes. Safe to share between threads."""

    def __init__(self, url: str, secret: str, base_url: str, clock: Callable[[], datetime] = _now) -> None:
        """`secret` is `whsec_` and base64; `base_url` is where customers reach their page."""
        try:
            self._signer = Webhook(secret)
        except Exception:  # noqa: BLE001 - the library raises several kinds, and their texts may quote the secret
            raise SettingsInvalid("the callback secret is not base64", "write it as whsec_ and base64") from None
        self._url = url
        self._base_url = base_url
        self._clock = clock
        # Redirects are not followed: a signed message goes where the operator said and nowhere else.
        self._client = httpx2.Client(timeout=_SECONDS, follow_redirects=False)

    def send(self, announcement: Notification) -> None:
        now = self._clock().astimezone(UTC)
        message = to_structured_event(
            CloudEvent(
                {
                    "id": announcement.message_id,
                    "source": SOURCE,
                    "type": f"{TYPE_PREFIX}{announcement.kind}",
                    "subject": announcement.tenant_id,
                    "time": now,
                    "datacontenttype": "application/json",
                },
                {
                    "tenant_id": announcement.tenant_id,
                    "kind": announcement.kind,
                    "subject": announcement.subject,
                    "text": announcement.body,
                    "dashboard_url": dashboard_url(self._base_url, announcement.tenant_id),
                },
            )
        )
        headers = message.headers | {
            "webhook-id": announcement.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            # The library reads the wall clock of whatever zone it is given as UTC; `now` is in UTC.
            "webhook-signature": self._signer.sign(announcement.message_id, now, message.body.decode("utf-8")),
        }
        try:
            answer = self._client.post(self._url, content=message.body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise NotificationUndelivered("the callback does not answer") from None
        if not answer.is_success:
            raise NotificationUndelivered(f"the callback answered {answer.status_code}")

    def close(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        self._client.close()


class EmailSender:
    """Sends plain text by SMTP, one connection a message: announcements are rare and servers hang up on the idle."""

    def __init__(  # noqa: PLR0913 - a mail server takes that many settings
        self,
        host: str,
        port: int,
        *,
        security: SmtpSecurity,
        user: str | None,
        password: str | None,
        sender: str,
        to_template: str,
    ) -> None:
        """`to_template` is an address in which `{tenant_id}` is replaced.

        Raises:
            SettingsInvalid: a password would cross the network in the clear, or an address is not one.
        """
        if user is not None and security == "none":
            raise SettingsInvalid(
                "smtp_user is set and smtp_security is none, which would send the password in the clear",
                "set smtp_security to starttls or tls",
            )
        self._host, self._port, self._security = host, port, security
        self._user, self._password = user, password
        self._sender = _address(sender)
        self._to_template = to_template
        _address(to_template.replace("{tenant_id}", "tenant"))

    def send(self, announcement: Notification) -> None:
        mail = self._compose(announcement)
        try:
            with self._connect() as server:
                if self._user is not None:
                    server.login(self._user, self._password or "")
                # A receiver that is refused raises; there is one, so there are no half deliveries.
                server.send_message(mail)
        except (OSError, smtplib.SMTPException):
            raise NotificationUndelivered("the mail server does not take the message") from None

    def _compose(self, announcement: Notification) -> EmailMessage:
        """Build the mail; the policy refuses line breaks in headers, so a name cannot add any of its own."""
        mail = EmailMessage(policy=SMTP)
        try:
            mail["From"] = self._sender
            mail["To"] = _address(self._to_template.replace("{tenant_id}", announcement.tenant_id))
            mail["Subject"] = announcement.subject
            mail["Message-ID"] = f"<{announcement.message_id}@{_MAIL_ID_DOMAIN}>"
            mail["Auto-Submitted"] = "auto-generated"
            mail.set_content(announcement.body)
        except (ValueError, MessageError):
            raise NotificationUndelivered("the message cannot be written as a mail") from None
        mail["Date"] = _now()
        return mail

    def _connect(self) -> smtplib.SMTP:
        if self._security == "tls":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=_SECONDS, context=ssl.create_default_context())
        server = smtplib.SMTP(self._host, self._port, timeout=_SECONDS)
        if self._security == "starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server


def _address(text: str) -> Address:
    try:
        return Address(addr_spec=text)
    except (ValueError, MessageError):
        raise SettingsInvalid("email_from or email_to is not a mail address", "write it as name@host") from None
