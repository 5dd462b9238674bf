"""Notifications over real sockets: an HTTP receiver that verifies signatures, and a real SMTP server."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks import Webhook, WebhookVerificationError

from activities.notifications import CallbackSender, EmailSender
from config.secrets import (
    CALLBACK_SECRET,
    add_new_values,
    ensure_secret,
    read_secret,
    read_secret_values,
    remove_former_values,
)
from core.errors.platform import NotificationUndelivered, SettingsInvalid
from core.notifications import Channel, Notification, NotificationKind, announcement_text
from tests.e2e.receivers import CallbackReceiver
from tests.kms.fault_proxy import FaultProxy, answering

pytestmark = pytest.mark.integration

SECRET = "whsec_" + "Q2FsbGJhY2sgc2VjcmV0IG9mIHRoZSB0ZXN0cw=="
URL = "https://cmk.openkcm.io/tenant/acme-corp-12345"


def an_announcement(channel: Channel, **changes: Any) -> Notification:
    subject, body = announcement_text(NotificationKind.READY, "ACME Corporation", URL)
    values = {
        "message_id": "7d0c9f5e-0000-5000-8000-000000000001",
        "tenant_id": "acme-corp-12345",
        "channel": channel,
        "kind": NotificationKind.READY,
        "subject": subject,
        "body": body,
    }
    return Notification(**(values | changes))


@pytest.fixture
def proxy(callback: CallbackReceiver) -> Iterator[FaultProxy]:
    with FaultProxy.running(callback.url.removesuffix("/announcements")) as proxy:
        yield proxy


@pytest.fixture
def sender(proxy: FaultProxy) -> Iterator[CallbackSender]:
    with closing(CallbackSender(f"{proxy.url}/announcements", [SECRET], "https://cmk.openkcm.io")) as sender:
        yield sender


def test_callback_is_a_signed_cloud_event_with_a_stable_id(callback, sender) -> None:
    for _ in range(2):
        sender.send(an_announcement(Channel.CALLBACK))

    first, second = callback.taken
    Webhook(SECRET).verify(first.body, first.headers)
    event = from_http_event(HTTPMessage(first.headers, first.body))
    assert event.get_id() == first.headers["webhook-id"] == "7d0c9f5e-0000-5000-8000-000000000001"
    assert second.headers["webhook-id"] == first.headers["webhook-id"]
    assert (event.get_type(), event.get_subject()) == ("io.openkcm.tenant.ready", "acme-corp-12345")
    assert first.event["data"]["dashboard_url"] == URL
    assert "OpenKCM is ready for ACME Corporation!" in first.text


def test_receiver_changes_to_the_new_secret_while_messages_have_two_signatures(callback, tmp_path) -> None:
    ensure_secret(tmp_path, CALLBACK_SECRET, SECRET)
    messages = []

    def send() -> None:
        """Send as a worker that starts now."""
        secrets = read_secret_values(tmp_path, CALLBACK_SECRET)
        with closing(CallbackSender(callback.url, secrets, "https://cmk.openkcm.io")) as sender:
            sender.send(an_announcement(Channel.CALLBACK))
        messages.append(callback.taken[-1])

    send()
    add_new_values(tmp_path, [CALLBACK_SECRET])
    new = read_secret(tmp_path, CALLBACK_SECRET)
    send()
    remove_former_values(tmp_path, [CALLBACK_SECRET])
    send()

    def verifies(secret: str) -> list[bool]:
        return [is_signed(message, secret) for message in messages]

    # While old and restarted workers send, the receiver keeps the former secret; then either is sufficient.
    assert verifies(SECRET) == [True, True, False]
    assert verifies(new) == [False, True, True]
    assert verifies("whsec_" + "T3RoZXIgc2VjcmV0IG9mIHRoZSB0ZXN0cy4uLi4=") == [False, False, False]
    assert [len(message.headers["webhook-signature"].split()) for message in messages] == [1, 2, 1]


def is_signed(message: Any, secret: str) -> bool:
    try:
        Webhook(secret).verify(message.body, message.headers)
    except WebhookVerificationError:
        return False
    return True


@pytest.mark.parametrize("status", [302, 400, 410, 503])
def test_error_response_is_undelivered(proxy, sender, status) -> None:
    with proxy.spoiling(answering(status)), pytest.raises(NotificationUndelivered) as refused:
        sender.send(an_announcement(Channel.CALLBACK))

    assert SECRET not in repr(refused.value)
    assert len(proxy.seen) == 1


def test_unreachable_callback_is_undelivered_and_the_error_holds_no_secret(unused_port) -> None:
    sender = CallbackSender(f"http://user:hunter2@127.0.0.1:{unused_port}/", [SECRET], "https://cmk.openkcm.io")

    with pytest.raises(NotificationUndelivered) as refused:
        sender.send(an_announcement(Channel.CALLBACK))
    sender.close()

    assert "hunter2" not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_invalid_callback_secret_is_rejected_without_quoting_it() -> None:
    with pytest.raises(SettingsInvalid) as refused:
        CallbackSender("http://127.0.0.1/", ["whsec_é"], "https://cmk.openkcm.io")

    assert "é" not in repr(refused.value)


def mail_sender(port: int, **changes: Any) -> EmailSender:
    settings = {
        "security": "none",
        "user": None,
        "password": None,
        "sender": "openkcm@localhost",
        "to_template": "security+{tenant_id}@example.com",
    }
    return EmailSender("127.0.0.1", port, **(settings | changes))


def test_mail_has_the_customers_text_and_the_message_id(mailbox) -> None:
    mail_sender(mailbox.port).send(an_announcement(Channel.EMAIL))

    (message,) = mailbox.mails
    assert mailbox.recipients == ["security+acme-corp-12345@example.com"]
    assert message["Message-ID"] == "<7d0c9f5e-0000-5000-8000-000000000001@openkcm>"
    assert message["Subject"] == "OpenKCM is ready for ACME Corporation!"
    assert "✓ CMK UI available at: " + URL in message.get_content()


@pytest.mark.parametrize("name", ["ACME\r\nBcc: all@example.com", "ACME\nX-Evil: 1"])
def test_organization_name_cannot_add_headers(mailbox, name) -> None:
    with pytest.raises(NotificationUndelivered):
        mail_sender(mailbox.port).send(an_announcement(Channel.EMAIL, subject=f"OpenKCM is ready for {name}!"))

    assert mailbox.mails == []


def test_rejected_mail_is_undelivered(mailbox) -> None:
    mailbox.answer = "451 try later"

    with pytest.raises(NotificationUndelivered):
        mail_sender(mailbox.port).send(an_announcement(Channel.EMAIL))


def test_unreachable_mail_server_is_undelivered(unused_port) -> None:
    with pytest.raises(NotificationUndelivered):
        mail_sender(unused_port).send(an_announcement(Channel.EMAIL))


def test_mail_is_not_sent_unencrypted_where_starttls_is_required(mailbox) -> None:
    with pytest.raises(NotificationUndelivered):
        mail_sender(mailbox.port, security="starttls").send(an_announcement(Channel.EMAIL))

    assert mailbox.mails == []


def test_password_without_encryption_is_rejected(unused_port) -> None:
    with pytest.raises(SettingsInvalid):
        mail_sender(unused_port, user="openkcm", password="hunter2")
