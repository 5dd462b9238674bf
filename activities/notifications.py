"""Step 6 and all other notifications: stored in the transaction of their cause, sent from the outbox.

Each attempt sends the same message id where receivers expect it (`webhook-id` and the CloudEvent's `id`; `Message-ID`
in mail), so that they can drop duplicates. The senders are the marketplace's callback and the customer's mailbox. Each
failure becomes NotificationUndelivered without the text of its cause: addresses with credentials, responses and secrets
must not reach a workflow history.
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
    """One channel. A receiver drops duplicates by the message id, which is the same in every attempt."""

    def send(self, notification: Notification) -> None:
        """Send the message; raises NotificationUndelivered when the receiver did not accept it."""
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
        """Send the tenant's unsent messages; done when none is left."""
        began = self._clock()
        if not self._deliver(step):
            raise NotificationUndelivered
        if step.kind is NotificationKind.READY:
            with self._database.tenant_tx(step.tenant_id) as tx:
                complete_step(tx, step, Step.ANNOUNCE, began)

    @activity.defn(name="dispatch-outbox")
    def sweep_outbox(self) -> None:
        """Send messages that an operation could not send; a message that fails again waits for the next sweep."""
        for tenant_id in self._platform.waiting_outboxes(_BATCH):
            self._deliver(StepInput(tenant_id=tenant_id, operation_id="outbox"))
            activity.heartbeat(tenant_id)

    def _deliver(self, step: StepInput) -> bool:
        """Send on every channel; a failed channel delays no other. Returns False when a message is left.

        A message is marked sent after the receiver accepted it. A crash in between sends it again with the same
        message id, by which receivers drop duplicates.
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
    """The channels on which customers are notified, and the address of their dashboard."""

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
        """Store one message for each channel; False without a recipient. `until` is the end of the grace period."""
        if step.tenant_id in ids.PLATFORM_TENANTS:  # no customer enabled it
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
        """`secret` is `whsec_` and base64; `base_url` is the address of the dashboard."""
        try:
            self._signer = Webhook(secret)
        except Exception:  # noqa: BLE001 - the library raises several kinds, and their texts may quote the secret
            raise SettingsInvalid("the callback secret is not base64", "write it as whsec_ and base64") from None
        self._url = url
        self._base_url = base_url
        self._clock = clock
        # Redirects are not followed: a signed message goes only to the configured address.
        self._client = httpx2.Client(timeout=_SECONDS, follow_redirects=False)

    def send(self, notification: Notification) -> None:
        now = self._clock().astimezone(UTC)
        message = to_structured_event(
            CloudEvent(
                {
                    "id": notification.message_id,
                    "source": SOURCE,
                    "type": f"{TYPE_PREFIX}{notification.kind}",
                    "subject": notification.tenant_id,
                    "time": now,
                    "datacontenttype": "application/json",
                },
                {
                    "tenant_id": notification.tenant_id,
                    "kind": notification.kind,
                    "subject": notification.subject,
                    "text": notification.body,
                    "dashboard_url": dashboard_url(self._base_url, notification.tenant_id),
                },
            )
        )
        headers = message.headers | {
            "webhook-id": notification.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            # The library reads the time as UTC regardless of its zone; `now` is in UTC.
            "webhook-signature": self._signer.sign(notification.message_id, now, message.body.decode("utf-8")),
        }
        try:
            answer = self._client.post(self._url, content=message.body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise NotificationUndelivered("the callback does not respond") from None
        if not answer.is_success:
            raise NotificationUndelivered(f"the callback responded with {answer.status_code}")

    def close(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        self._client.close()


class EmailSender:
    """Sends plain text by SMTP, one connection per message: messages are rare and servers close idle connections."""

    def __init__(  # noqa: PLR0913 - a mail server needs that many settings
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
            SettingsInvalid: a password would cross the network unencrypted, or an address is invalid.
        """
        if user is not None and security == "none":
            raise SettingsInvalid(
                "smtp_user is set and smtp_security is none, which would send the password unencrypted",
                "set smtp_security to starttls or tls",
            )
        self._host, self._port, self._security = host, port, security
        self._user, self._password = user, password
        self._sender = _address(sender)
        self._to_template = to_template
        _address(to_template.replace("{tenant_id}", "tenant"))

    def send(self, notification: Notification) -> None:
        mail = self._compose(notification)
        try:
            with self._connect() as server:
                if self._user is not None:
                    server.login(self._user, self._password or "")
                # A rejected recipient raises; with one recipient no partial delivery exists.
                server.send_message(mail)
        except (OSError, smtplib.SMTPException):
            raise NotificationUndelivered("the mail server does not accept the message") from None

    def _compose(self, notification: Notification) -> EmailMessage:
        """Build the mail; the policy rejects line breaks in headers, so that a name cannot add a header."""
        mail = EmailMessage(policy=SMTP)
        try:
            mail["From"] = self._sender
            mail["To"] = _address(self._to_template.replace("{tenant_id}", notification.tenant_id))
            mail["Subject"] = notification.subject
            mail["Message-ID"] = f"<{notification.message_id}@{_MAIL_ID_DOMAIN}>"
            mail["Auto-Submitted"] = "auto-generated"
            mail.set_content(notification.body)
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
