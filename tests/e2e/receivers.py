"""Receivers of notifications: the marketplace's callback and the customer's mailbox, as real servers with delays."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from standardwebhooks import Webhook


@dataclass(frozen=True)
class Taken:
    """One notification that the callback received; `headers` have lower-case names."""

    headers: dict[str, str]
    body: bytes
    arrived_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def event(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def text(self) -> str:
        return str(self.event["data"]["text"])

    def verify(self, secret: str) -> None:
        """Raise AssertionError unless the signature is that of the marketplace's library and is recent."""
        signed_at = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), UTC)
        assert abs(self.arrived_at - signed_at) < timedelta(minutes=5)
        expected = Webhook(secret).sign(self.headers["webhook-id"], signed_at, self.body.decode())
        assert expected in self.headers["webhook-signature"].split()


class CallbackReceiver(ThreadingHTTPServer):
    """Receives notifications and responds with `status`; `holding` delays the response to each sender."""

    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.taken: list[Taken] = []
        self.arrived = threading.Event()
        self._may_answer = threading.Event()
        self._may_answer.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/announcements"

    def about(self, tenant_id: str, kind: str) -> list[Taken]:
        return [t for t in self.taken if t.event["subject"] == tenant_id and t.event["data"]["kind"] == kind]

    def take(self, taken: Taken) -> None:
        self.taken.append(taken)
        self.arrived.set()
        self._may_answer.wait(30)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Delay all responses until the block ends."""
        self.arrived.clear()
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def close(self) -> None:
        self._may_answer.set()
        self.shutdown()
        self.server_close()


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, CallbackReceiver)
        self.server.take(Taken({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing."""


class Mailbox:
    """An SMTP server without TLS on a dedicated port that accepts every mail."""

    def __init__(self, port: int) -> None:
        self.mails: list[EmailMessage] = []
        self.port = port
        self._running: Controller | None = None
        self.open()

    def open(self) -> None:
        self._running = Controller(self, hostname="127.0.0.1", port=self.port)
        self._running.start()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 taken"

    def about(self, tenant_id: str, words: str) -> list[EmailMessage]:
        return [mail for mail in self.mails if tenant_id in str(mail["To"]) and words in str(mail["Subject"])]

    def close(self) -> None:
        """Stop the server, which then refuses connections."""
        if self._running is not None:
            self._running.stop()
            self._running = None
