"""Step 6 and all other notifications: stored in the transaction of their cause, sent from the outbox.

A receiver that does not answer delays only its own messages: each channel has separate threads, and each tenant a
separate queue. An attempt has one deadline for all its reads and writes, so that a receiver that responds byte by byte
holds no thread. A queue keeps its order: a message is attempted only after its predecessor is sent or expired. An
attempt is recorded before it is made, so a worker that dies in it repeats one message of each running attempt.

Each attempt sends the same message id where receivers expect it (`webhook-id` and the CloudEvent's `id`; `Message-ID`
in mail), so that they can drop duplicates. The senders are the marketplace's callback and the customer's mailbox. Each
failure becomes NotificationUndelivered without the text of its cause: addresses with credentials, responses and secrets
must not reach a workflow history.
"""

import asyncio
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any, Literal, Protocol, TypeVar

import httpx2
import structlog
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from standardwebhooks import Webhook
from temporalio import activity

from activities.runtime.audit_trail import Clock, append_audit_event, complete_step
from activities.runtime.concurrency import ContextThreadPool
from activities.runtime.metrics import DeliveryStage, Metrics
from core import names as ids
from core.errors.platform import NotificationUndelivered, SettingsInvalid
from core.messages.base import AnnounceInput, StepInput
from core.notifications import (
    Channel,
    Notification,
    NotificationKind,
    announcement_text,
    dashboard_url,
    message_id,
    retry_delay,
)
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.notifications import DeliveryAttempt
from database.platform.scheduled import PlatformQueries
from database.tenants import TenantRow
from kms.network.bounded_sockets import BoundedSocket, bound, open_connection
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError

_SENDS_AT_ONCE = 8
"""Concurrent sends on one channel."""
_MAX_QUEUES = 10_000
"""Queues of one channel in one sweep. A failed one is due later, so it keeps no other from the next sweep."""
_LEASE = timedelta(seconds=20)
"""Time after which the message of a dead worker is attempted again: longer than an attempt on any channel."""
_ANNOUNCE_SECONDS = 10.0
_SWEEP_SECONDS = 45.0
"""Time of one sweep. The schedule starts one each minute."""
_HEARTBEAT_SECONDS = 1.0
_SLOW_SECONDS = 1.0
"""A failure that takes longer holds a slot that other tenants' operations need."""
_SLOW_FAILURES = 3
_DOWN_SECONDS = 60.0
_LATE_ATTEMPT = 10
"""The failed attempt that counts a message as late: about eight minutes after the first one."""

log = structlog.get_logger()


class Sender(Protocol):
    """One channel. A receiver drops duplicates by the message id, which is the same in every attempt."""

    def send(self, notification: Notification) -> None:
        """Send the message; raises NotificationUndelivered when the receiver did not accept it."""
        ...


class ChannelHealth:
    """Whether a channel's receiver responds, by the newest attempts of this process. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slow_failures = 0
        self._down_until = 0.0

    @property
    def is_down(self) -> bool:
        """True for a minute after three failures that each took longer than a second, without a success between."""
        return time.monotonic() < self._down_until

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Measure an attempt; an exception is its failure."""
        began = time.monotonic()
        try:
            yield
        except Exception:
            now = time.monotonic()
            with self._lock:
                self._slow_failures += now - began > _SLOW_SECONDS
                if self._slow_failures >= _SLOW_FAILURES:
                    self._down_until = now + _DOWN_SECONDS
            raise
        with self._lock:
            self._slow_failures, self._down_until = 0, 0.0


class NotificationActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        senders: Mapping[Channel, Sender],
        expires_after: timedelta,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`expires_after` is the age at which a failed message becomes a dead letter."""
        self._database = database
        self._platform = platform
        self._senders = senders
        self._expires_after = expires_after
        self._clock = clock
        self._metrics = metrics
        self._health = {channel: ChannelHealth() for channel in Channel}

    @activity.defn(name=Step.ANNOUNCE)
    def announce(self, step: AnnounceInput) -> None:
        """Send the tenant's unsent messages; done when none is left.

        Only the sweep attempts a channel that is down. Otherwise each operation would wait for its receiver, in a slot
        that other tenants need.

        Raises:
            NotificationUndelivered: a message is left; it is due later, or another process is sending it.
        """
        began = self._clock()
        responding = [channel for channel in self._senders if not self._health[channel].is_down]
        self._send({channel: [step] for channel in responding}, _ANNOUNCE_SECONDS)
        with self._database.tenant_tx(step.tenant_id) as tx:
            if any(message.channel in self._senders for message in tx.outbox.unsent()):
                raise NotificationUndelivered
            if step.kind is NotificationKind.READY:
                complete_step(tx, step, Step.ANNOUNCE, began)

    @activity.defn(name="dispatch-outbox")
    def sweep_outbox(self) -> None:
        """Send all due messages that their operations did not send; what is left waits for the next sweep.

        Messages on a channel without a sender expire as any other, so that none stays unnoticed.
        """
        due = {
            channel: [
                StepInput(tenant_id=tenant_id, operation_id="outbox")
                for tenant_id in self._platform.due_notifications(channel, _MAX_QUEUES)
            ]
            for channel in Channel
        }
        self._send(due, _SWEEP_SECONDS)

    def _send(self, queues: Mapping[Channel, Sequence[StepInput]], seconds: float) -> None:
        """Send the queues of tenants concurrently, each channel in separate threads, with heartbeats.

        No attempt begins after `seconds`. A failure of one queue stops no other; the first one is raised at the end.
        """
        until = time.monotonic() + seconds
        pools = {channel: ContextThreadPool(_SENDS_AT_ONCE) for channel in queues}
        try:
            running: set[Future[None]] = {
                pools[channel].submit(self._send_queue, step, channel, until)
                for channel, steps in queues.items()
                for step in steps
            }
            every = list(running)
            while running:
                running = wait(running, _HEARTBEAT_SECONDS).not_done
                activity.heartbeat(len(running))
        finally:
            for pool in pools.values():
                pool.shutdown(cancel_futures=True)
        for ended in every:
            ended.result()

    def _send_queue(self, step: StepInput, channel: Channel, until: float) -> None:
        """Send a tenant's messages on one channel in order, up to the first that is not accepted."""
        try:
            while time.monotonic() < until and self._attempt(step, channel):
                pass
        except OpenKcmError as failed:
            log.warning("notifications not sent", tenant_id=step.tenant_id, channel=channel, code=failed.code)
            raise

    def _attempt(self, step: StepInput, channel: Channel) -> bool:
        """Attempt the oldest message of a queue if it is due; return whether it was sent.

        A message is marked sent after the receiver accepted it. A crash in between sends it again with the same
        message id, by which receivers drop duplicates.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            attempt = tx.outbox.claim(channel, _LEASE)
        if attempt is None:
            return False
        message = attempt.notification
        try:
            with self._health[channel].attempt():
                self._sender(channel).send(message)
        except NotificationUndelivered as failed:
            self._record_failure(step, attempt, failed.message)
            return False
        except Exception as failed:  # noqa: BLE001 - a message on which its sender fails must not be attempted for ever
            # Without the text and the trace, which may contain an address or a response.
            facts = {"channel": channel, "message_id": message.message_id, "error": type(failed).__name__}
            log.error("sender failed", **facts)  # noqa: TRY400 - the reason above
            self._record_failure(step, attempt, "the message cannot be sent: internal error")
            return False
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.outbox.mark_sent(message.message_id)
            append_audit_event(
                tx, step, AuditName.ANNOUNCED, message.message_id, channel=message.channel, kind=message.kind
            )
        return True

    def _sender(self, channel: Channel) -> Sender:
        sender = self._senders.get(channel)
        if sender is None:
            raise NotificationUndelivered("the channel is not configured")
        return sender

    def _record_failure(self, step: StepInput, attempt: DeliveryAttempt, problem: str) -> None:
        """Record a failed attempt; a message at the end of its time becomes a dead letter with an audit event."""
        message = attempt.notification
        with self._database.tenant_tx(step.tenant_id) as tx:
            expired = tx.outbox.record_failure(
                message.message_id, problem, retry_delay(attempt.number), self._expires_after
            )
            if expired:
                append_audit_event(
                    tx,
                    step,
                    AuditName.ANNOUNCE_EXPIRED,
                    message.message_id,
                    "failure",
                    channel=message.channel,
                    kind=message.kind,
                    attempts=str(attempt.number),
                )
        if not expired and attempt.number != _LATE_ATTEMPT:
            return
        stage: DeliveryStage = "expired" if expired else "late"
        self._metrics.count_undelivered_notification(message.channel, stage)
        log.error(
            "notification not delivered",
            tenant_id=step.tenant_id,
            message_id=message.message_id,
            channel=message.channel,
            kind=message.kind,
            stage=stage,
            problem=problem,
        )


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


_CALLBACK_SECONDS = 5.0
"""Time of one attempt, from the resolution of the name to the end of the response."""
_CONNECT_PART = 0.4
"""Part of an attempt for its connection, and as much again for the TLS handshake: both end before the attempt."""
_LONGEST_RESPONSE = 65_536
_MAIL_SECONDS = 10.0
"""Time of one attempt, which has about ten round trips."""
SOURCE = "/openkcm"
TYPE_PREFIX = "io.openkcm.tenant."
_MAIL_ID_DOMAIN = "openkcm"

SmtpSecurity = Literal["none", "starttls", "tls"]
Result = TypeVar("Result")


def _now() -> datetime:
    return datetime.now(UTC)


class CallbackSender:
    """Posts structured CloudEvents, signed as Standard Webhooks describes. Safe to share between threads.

    During a replacement of the secret there are two, and a message has a signature with each. So its receiver can
    change to the new secret at any time.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[str],
        base_url: str,
        clock: Callable[[], datetime] = _now,
        seconds: float = _CALLBACK_SECONDS,
    ) -> None:
        """Each secret is `whsec_` and base64; `base_url` is the dashboard's address; `seconds` limit an attempt."""
        try:
            self._signers = [Webhook(secret) for secret in secrets]
        except Exception:  # noqa: BLE001 - the library raises several kinds, and their texts may quote the secret
            raise SettingsInvalid("the callback secret is not base64", "write it as whsec_ and base64") from None
        self._url = url
        self._base_url = base_url
        self._clock = clock
        self._seconds = seconds
        # Timeouts of httpx2 are for one read. An event loop can cancel a whole request, also while a name is resolved.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="callback", daemon=True)
        self._thread.start()
        # Redirects are not followed: a signed message goes only to the configured address.
        # httpx2 keeps the connection of a cancelled handshake open for as long as the receiver does.
        timeout = httpx2.Timeout(seconds, connect=_CONNECT_PART * seconds)
        # No proxy of the environment gets a message or its address. The context still trusts a CA in SSL_CERT_FILE.
        self._client = httpx2.AsyncClient(
            timeout=timeout, follow_redirects=False, trust_env=False, verify=ssl.create_default_context()
        )

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
        text = message.body.decode("utf-8")
        headers = message.headers | {
            "webhook-id": notification.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            # The library reads the time as UTC regardless of its zone; `now` is in UTC.
            "webhook-signature": " ".join(one.sign(notification.message_id, now, text) for one in self._signers),
        }
        try:
            status = self._run(self._post(message.body, headers))
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL):
            raise NotificationUndelivered("the callback does not respond") from None
        if not 200 <= status < 300:
            raise NotificationUndelivered(f"the callback responded with {status}")

    def close(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status. The body is read only so that the connection can be used again."""
        async with (
            asyncio.timeout(self._seconds),
            self._client.stream("POST", self._url, content=body, headers=headers) as answer,
        ):
            length = 0
            async for chunk in answer.aiter_raw():
                length += len(chunk)
                if length > _LONGEST_RESPONSE:
                    break
            return answer.status_code

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


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
        seconds: float = _MAIL_SECONDS,
    ) -> None:
        """`to_template` is an address in which `{tenant_id}` is replaced; `seconds` limit an attempt.

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
