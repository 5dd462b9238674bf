"""The senders behind `notifications.Sender`: the marketplace's callback and the customer's mailbox.

Both say the message id in the place their receivers look for it (`webhook-id` and the CloudEvent's `id`; `Message-ID`),
so a message that is sent again is known again. Whatever goes wrong is AnnouncementUndelivered, without the cause's
text: addresses with credentials, answers and secrets would otherwise reach a workflow history.
"""

import smtplib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Literal

import httpx2
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook

from core.errors.platform import AnnouncementUndelivered, SettingsInvalid
from core.notifications import Announcement, dashboard_url

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

    def send(self, announcement: Announcement) -> None:
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
            raise AnnouncementUndelivered("the callback does not answer") from None
        if not answer.is_success:
            raise AnnouncementUndelivered(f"the callback answered {answer.status_code}")

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

    def send(self, announcement: Announcement) -> None:
        mail = self._compose(announcement)
        try:
            with self._connect() as server:
                if self._user is not None:
                    server.login(self._user, self._password or "")
                # A receiver that is refused raises; there is one, so there are no half deliveries.
                server.send_message(mail)
        except (OSError, smtplib.SMTPException):
            raise AnnouncementUndelivered("the mail server does not take the message") from None

    def _compose(self, announcement: Announcement) -> EmailMessage:
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
            raise AnnouncementUndelivered("the message cannot be written as a mail") from None
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
