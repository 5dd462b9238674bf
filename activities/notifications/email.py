"""Mail to the platform's receiver and to the e-mail targets of tenants."""

import smtplib
import socket
import ssl
import time
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Literal

from core.errors.platform import NotificationUndelivered, SettingsInvalid
from core.notifications import Notification
from kms.network.bounded_sockets import BoundedSocket, bound, open_connection

_MAIL_SECONDS = 10.0
"""Time of one attempt, which has about ten round trips."""
_MAIL_ID_DOMAIN = "openkcm"

SmtpSecurity = Literal["none", "starttls", "tls"]


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
        to_template: str | None,
        seconds: float = _MAIL_SECONDS,
    ) -> None:
        """`to_template` is the platform's receiver, an address in which `{tenant_id}` is replaced; None without one.

        `seconds` limit an attempt.

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
        self._seconds = seconds
        if to_template is not None:
            _address(to_template.replace("{tenant_id}", "tenant"))

    def send(self, notification: Notification) -> None:
        """Send a message to the platform's receiver."""
        if self._to_template is None:
            raise NotificationUndelivered("the channel is not configured")
        self.send_to(notification, self._to_template.replace("{tenant_id}", notification.tenant_id))

    def send_to(self, notification: Notification, address: str) -> None:
        """Send a message to an address; raises NotificationUndelivered when the mail server does not accept it."""
        mail = self._compose(notification, address)
        try:
            with self._connect() as server:
                if self._user is not None:
                    server.login(self._user, self._password or "")
                # A rejected recipient raises; with one recipient no partial delivery exists.
                server.send_message(mail)
        except (OSError, smtplib.SMTPException):
            raise NotificationUndelivered("the mail server does not accept the message") from None

    def _compose(self, notification: Notification, address: str) -> EmailMessage:
        """Build the mail; the policy rejects line breaks in headers, so that a name cannot add a header."""
        mail = EmailMessage(policy=SMTP)
        try:
            mail["From"] = self._sender
            mail["To"] = _address(address)
            mail["Subject"] = notification.subject
            mail["Message-ID"] = f"<{notification.message_id}@{_MAIL_ID_DOMAIN}>"
            mail["Auto-Submitted"] = "auto-generated"
            mail.set_content(notification.body)
        except (ValueError, MessageError):
            raise NotificationUndelivered("the message cannot be written as a mail") from None
        mail["Date"] = datetime.now(UTC)
        return mail

    def _connect(self) -> smtplib.SMTP:
        context = bound(ssl.create_default_context())
        deadline = time.monotonic() + self._seconds
        server = _BoundedSmtp(self._host, self._port, deadline, context if self._security == "tls" else None)
        if self._security == "starttls":
            try:
                server.start_tls(context)
            except BaseException:
                server.close()
                raise
        return server


class _BoundedSmtp(smtplib.SMTP):
    """A connection of which all reads and writes end at a deadline; `context` encrypts it from the start."""

    def __init__(self, host: str, port: int, deadline: float, context: ssl.SSLContext | None) -> None:
        self._deadline = deadline
        self._context = context
        super().__init__(host, port)

    def _get_socket(self, host: str, port: int, _timeout: float) -> socket.socket:  # the method that SMTP_SSL overrides
        return open_connection(host, port, self._deadline, self._context)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Encrypt the connection; the handshake takes its timeout from the socket that it replaces."""
        self.starttls(context=context)
        if isinstance(self.sock, BoundedSocket):
            self.sock.deadline = self._deadline


def _address(text: str) -> Address:
    try:
        return Address(addr_spec=text)
    except (ValueError, MessageError):
        raise SettingsInvalid("email_from or email_to is not a mail address", "write it as name@host") from None
