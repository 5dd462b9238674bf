"""Announcements over real sockets: an HTTP receiver that verifies signatures, and a real SMTP server."""

import json
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook

from activities.delivery import CallbackSender, EmailSender
from tenancy.announcements import announcement_text
from tenancy.errors import AnnouncementUndelivered, SettingsInvalid
from tenancy.events import Announcement, AnnouncementKind, Channel

SECRET = "whsec_" + "Q2FsbGJhY2sgc2VjcmV0IG9mIHRoZSB0ZXN0cw=="
URL = "https://cmk.openkcm.io/tenant/acme-corp-12345"


def an_announcement(channel: Channel, **changes: Any) -> Announcement:
    subject, body = announcement_text(AnnouncementKind.READY, "ACME Corporation", URL)
    values = {
        "message_id": "7d0c9f5e-0000-5000-8000-000000000001",
        "tenant_id": "acme-corp-12345",
        "channel": channel,
        "kind": AnnouncementKind.READY,
        "subject": subject,
        "body": body,
    }
    return Announcement(**(values | changes))


class Receiver:
    """A marketplace's callback: keeps what it took, and refuses with `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.taken: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/callback"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.02,))
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture
def callback(receiver: Receiver) -> Iterator[CallbackSender]:
    sender = CallbackSender(receiver.url, SECRET, "https://cmk.openkcm.io")
    yield sender
    sender.close()


def test_the_callback_gets_a_cloud_event_it_can_verify(receiver, callback):
    callback.send(an_announcement(Channel.CALLBACK))

    ((headers, body),) = receiver.taken
    Webhook(SECRET).verify(body, headers)
    event = from_http_event(HTTPMessage(headers, body))
    assert event.get_id() == headers["webhook-id"] == "7d0c9f5e-0000-5000-8000-000000000001"
    assert (event.get_type(), event.get_subject()) == ("io.openkcm.tenant.ready", "acme-corp-12345")
    said = json.loads(body)["data"]
    assert said["dashboard_url"] == URL
    assert "OpenKCM is ready for ACME Corporation!" in said["text"]


def test_a_message_sent_again_carries_the_same_id(receiver, callback):
    for _ in range(2):
        callback.send(an_announcement(Channel.CALLBACK))

    assert len({headers["webhook-id"] for headers, _ in receiver.taken}) == 1


@pytest.mark.parametrize("status", [302, 400, 410, 503])
def test_an_answer_that_is_not_a_success_is_undelivered(receiver, callback, status):
    receiver.status = status

    with pytest.raises(AnnouncementUndelivered) as refused:
        callback.send(an_announcement(Channel.CALLBACK))

    assert SECRET not in repr(refused.value)
    assert len(receiver.taken) == 1


def test_a_callback_that_is_not_there_is_undelivered_and_says_no_secret(free_port):
    sender = CallbackSender(f"http://user:hunter2@127.0.0.1:{free_port}/", SECRET, "https://cmk.openkcm.io")

    with pytest.raises(AnnouncementUndelivered) as refused:
        sender.send(an_announcement(Channel.CALLBACK))
    sender.close()

    assert "hunter2" not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_callback_secret_that_is_not_one_is_refused_without_quoting_it():
    with pytest.raises(SettingsInvalid) as refused:
        CallbackSender("http://127.0.0.1/", "whsec_é", "https://cmk.openkcm.io")

    assert "é" not in repr(refused.value)


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 OK"

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return self.answer


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def mail(mailbox: Mailbox, free_port: int) -> Iterator[EmailSender]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_port)
    controller.start()
    yield an_email_sender(free_port)
    controller.stop()


def an_email_sender(port: int, **changes: Any) -> EmailSender:
    settings = {
        "security": "none",
        "user": None,
        "password": None,
        "sender": "openkcm@localhost",
        "to_template": "security+{tenant_id}@example.com",
    }
    return EmailSender("127.0.0.1", port, **(settings | changes))


def test_a_mail_carries_the_customers_words_and_the_message_id(mail, mailbox):
    mail.send(an_announcement(Channel.EMAIL))

    ((receivers, message),) = mailbox.mails
    assert receivers == ["security+acme-corp-12345@example.com"]
    assert message["Message-ID"] == "<7d0c9f5e-0000-5000-8000-000000000001@openkcm>"
    assert message["Subject"] == "OpenKCM is ready for ACME Corporation!"
    assert "✓ CMK UI available at: " + URL in message.get_content()


@pytest.mark.parametrize("name", ["ACME\r\nBcc: all@example.com", "ACME\nX-Evil: 1"])
def test_a_name_cannot_add_headers(mail, mailbox, name):
    with pytest.raises(AnnouncementUndelivered):
        mail.send(an_announcement(Channel.EMAIL, subject=f"OpenKCM is ready for {name}!"))

    assert mailbox.mails == []


def test_a_server_that_refuses_the_mail_is_undelivered(mail, mailbox):
    mailbox.answer = "451 try later"

    with pytest.raises(AnnouncementUndelivered):
        mail.send(an_announcement(Channel.EMAIL))


def test_a_server_that_is_not_there_is_undelivered(free_port):
    with pytest.raises(AnnouncementUndelivered):
        an_email_sender(free_port).send(an_announcement(Channel.EMAIL))


def test_a_server_without_starttls_gets_no_mail_in_the_clear(mail, mailbox):
    plain = an_email_sender(mail._port, security="starttls")

    with pytest.raises(AnnouncementUndelivered):
        plain.send(an_announcement(Channel.EMAIL))

    assert mailbox.mails == []


def test_a_password_is_never_configured_to_cross_the_network_in_the_clear(free_port):
    with pytest.raises(SettingsInvalid):
        an_email_sender(free_port, user="openkcm", password="hunter2")
