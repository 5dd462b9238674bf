"""A receiver that sends its response byte by byte ends an attempt at its deadline, on each channel."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from activities.notifications import CallbackSender
from core.errors.platform import NotificationUndelivered
from core.notifications import Channel
from tests.activities.notifications.test_delivery import SECRET, an_announcement, mail_sender
from tests.dripping import TLS_RECORD, dripping_server

pytestmark = pytest.mark.integration

SECONDS = 1.0
HELLO, EHLO = b"220 mail\r\n", b"250-mail\r\n250 STARTTLS\r\n"


@contextmanager
def ends_at_the_deadline() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(NotificationUndelivered):
        yield
    assert SECONDS / 3 < time.monotonic() - began < 5 * SECONDS


def callback_sender(scheme: str, port: int) -> closing[CallbackSender]:
    return closing(CallbackSender(f"{scheme}://127.0.0.1:{port}/", [SECRET], "https://cmk.openkcm.io", seconds=SECONDS))


@pytest.mark.parametrize(
    ("scheme", "replies"),
    [
        ("https", [TLS_RECORD]),
        ("http", [b"HTTP/1.1 "]),
        ("http", [b"", b"HTTP/1.1 204 No Content\r\nX-Drip: "]),
        ("http", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]),
    ],
    ids=["handshake", "status", "headers", "body"],
)
def test_dripping_callback_ends_the_attempt(scheme: str, replies: list[bytes]) -> None:
    with dripping_server(*replies) as port, callback_sender(scheme, port) as sender, ends_at_the_deadline():
        sender.send(an_announcement(Channel.CALLBACK))


def test_long_response_of_the_callback_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    with dripping_server(b"", head, drip=b"x" * 100_000) as port, callback_sender("http", port) as sender:
        sender.send(an_announcement(Channel.CALLBACK))


@pytest.mark.parametrize(
    ("security", "replies", "drip"),
    [
        ("tls", [TLS_RECORD], b"."),
        ("none", [b"220-"], b"."),
        ("none", [b""], b"220-mail\r\n"),
        ("none", [HELLO, b"250-mail"], b"."),
        ("none", [HELLO, b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 "], b"."),
        ("starttls", [HELLO, EHLO, b"220 go\r\n", TLS_RECORD], b"."),
    ],
    ids=["handshake", "banner", "lines of the banner", "greeting", "end of the mail", "starttls"],
)
def test_dripping_mail_server_ends_the_attempt(security: str, replies: list[bytes], drip: bytes) -> None:
    with dripping_server(*replies, drip=drip) as port, ends_at_the_deadline():
        mail_sender(port, security=security, seconds=SECONDS).send(an_announcement(Channel.EMAIL))
