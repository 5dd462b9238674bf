"""Attacks with a webhook's URL: no form of an address reaches an internal service."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from activities.notifications import WebhookSender
from core.errors.notifications import TargetInvalid
from core.errors.platform import NotificationUndelivered
from core.notifications import Channel
from core.notifications.targets import TargetKind, parse_address, shown_address
from kms.egress_policy import EgressPolicy
from tests.activities.notifications.test_delivery import SECRET, an_announcement
from tests.dripping import dripping_server
from tests.e2e.receivers import CallbackReceiver
from tests.kms.fault_proxy import FaultProxy, answering
from tests.kms.test_egress_policy import resolving

NOT_ALLOWED = "not be connected to: use https and a public address"


def sender(*networks: str, seconds: float = 5.0) -> WebhookSender:
    policy = EgressPolicy(networks=networks)
    return WebhookSender(
        lambda address, encrypted: policy.allows(address, encrypted=encrypted),
        "https://cmk.openkcm.io",
        response_seconds=seconds,
    )


def send(one: WebhookSender, url: str) -> int:
    return one.send_to(an_announcement(Channel.TARGET_WEBHOOK, target_id="a" * 32), url, [SECRET])


@pytest.fixture
def internal() -> Iterator[FaultProxy]:
    """An internal service on the loopback network, which counts its connections."""
    with FaultProxy.running("http://127.0.0.1:9") as proxy:
        yield proxy


@pytest.mark.integration
@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0"),  # noqa: S104 - no listener
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_form_of_an_internal_address_is_connected_to(internal, host, scheme) -> None:
    with pytest.raises(NotificationUndelivered):
        send(sender(), f"{scheme}://{host}:{internal.port}/")
    assert internal.connections == 0


@pytest.mark.integration
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "fd00:ec2::254", "::ffff:169.254.169.254"]
)
def test_public_name_with_an_internal_address_is_not_connected_to(internal, monkeypatch, address) -> None:
    resolving(monkeypatch, [address])
    with pytest.raises(NotificationUndelivered, match=NOT_ALLOWED):
        send(sender(), f"https://hooks.example:{internal.port}/")
    assert internal.connections == 0


@pytest.mark.integration
def test_second_answer_of_the_name_server_has_no_effect(internal, monkeypatch) -> None:
    """DNS rebinding: the first answer is permitted, the second one is internal."""
    asked = resolving(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    with pytest.raises(NotificationUndelivered):
        send(sender("127.0.0.2/32"), f"http://hooks.example:{internal.port}/")
    assert asked == ["hooks.example"]
    assert internal.connections == 0


@pytest.mark.integration
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_an_internal_service_is_not_followed(internal, status) -> None:
    with FaultProxy.running("http://127.0.0.1:9") as receiver:
        moved = answering(status, Location=f"http://127.0.0.1:{internal.port}/latest/meta-data")
        with receiver.spoiling(moved), pytest.raises(NotificationUndelivered, match="redirects are not followed"):
            send(sender("127.0.0.0/8"), f"{receiver.url}/")
    assert internal.connections == 0


@pytest.mark.integration
def test_networks_of_key_servers_are_not_those_of_webhooks(internal) -> None:
    """The worker has two policies: a network for key servers permits no webhook."""
    with pytest.raises(NotificationUndelivered, match=NOT_ALLOWED):
        send(sender("10.0.0.0/8"), f"http://127.0.0.1:{internal.port}/")
    assert internal.connections == 0


@pytest.mark.integration
def test_proxy_of_the_environment_is_not_used(internal, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{internal.port}")
    with closing(CallbackReceiver()) as receiver:
        assert send(sender("127.0.0.0/8"), receiver.url) == 204
        assert len(receiver.taken) == 1
    assert internal.connections == 0


@pytest.mark.integration
def test_untrusted_certificate_is_rejected_before_the_message_is_sent(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        resolving(monkeypatch, ["127.0.0.1"])
        port = listening.getsockname()[1]
        listening.settimeout(0.1)
        with pytest.raises(NotificationUndelivered):
            send(sender("127.0.0.0/8"), f"https://hooks.example:{port}/")
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(5)
            assert SECRET.encode() not in connection.recv(65_536)


@pytest.mark.integration
@pytest.mark.parametrize(
    "replies",
    [[b"HTTP/1.1 "], [b"", b"HTTP/1.1 204 No Content\r\nX-Drip: "]],
    ids=["status", "headers"],
)
def test_dripping_receiver_ends_the_attempt(replies) -> None:
    began = time.monotonic()
    with dripping_server(*replies) as port, pytest.raises(NotificationUndelivered, match="does not respond"):
        send(sender("127.0.0.0/8", seconds=1.0), f"http://127.0.0.1:{port}/")
    assert time.monotonic() - began < 8


@pytest.mark.integration
def test_body_of_a_response_is_not_read_to_its_end() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    began = time.monotonic()
    with dripping_server(b"", head, drip=b"x" * 100_000) as port:
        assert send(sender("127.0.0.0/8", seconds=1.0), f"http://127.0.0.1:{port}/") == 200
    assert time.monotonic() - began < 5


@pytest.mark.integration
def test_error_has_no_address_no_response_and_no_secret(internal) -> None:
    url = f"http://127.0.0.1:{internal.port}/services/T000/token-in-the-path"
    with internal.spoiling(answering(403, b"internal-response")), pytest.raises(NotificationUndelivered) as refused:
        send(sender("127.0.0.0/8"), url)
    assert str(refused.value.message) == "the receiver responded with 403"
    assert refused.value.__cause__ is None
    assert not [word for word in ("token-in-the-path", "internal-response", SECRET) if word in repr(refused.value)]


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks.example", "ftp://hooks.example/", "file:///etc/passwd", "https://", "https:///path"),
        *("https://user:password@hooks.example/", "https://user@hooks.example/", "https://hooks.example/#fragment"),
        *("https://hooks.example:99999/", "https://hooks.example/a b", "https://hooks.example/\r\nX-Evil: 1"),
        *(
            "https://hökks.example/",
            "https://hooks_example/",
            f"https://hooks.example/{'a' * 500}",
            "http://hooks.example/",
        ),
    ],
)
def test_invalid_url_is_rejected_without_quoting_it(url) -> None:
    with pytest.raises(TargetInvalid) as refused:
        parse_address(TargetKind.WEBHOOK, url, plain_http=False)
    assert "password" not in repr(refused.value.message) or "a password or a fragment" in refused.value.message


@pytest.mark.parametrize(
    "address",
    [
        *("", "ada", "ada@localhost", "ada@example..com", "@example.com", "ada@", "ada@-example.com"),
        *("ada@example.com\r\nBcc: eve@example.com", "ada@example.com, eve@example.com", "<ada@example.com>"),
        *('"ada"@example.com', "ada@[127.0.0.1]", f"{'a' * 70}@example.com", "ädä@example.com"),
    ],
)
def test_invalid_email_address_is_rejected(address) -> None:
    with pytest.raises(TargetInvalid):
        parse_address(TargetKind.EMAIL, address, plain_http=False)


@pytest.mark.parametrize(
    ("kind", "address", "shown"),
    [
        (TargetKind.EMAIL, "ada.lovelace+keys@example.com", "…@example.com"),
        (TargetKind.WEBHOOK, "https://hooks.example:8443/T000/token?key=1", "https://hooks.example:8443"),
    ],
)
def test_operators_see_no_person_and_no_token_of_an_address(kind, address, shown) -> None:
    assert parse_address(kind, f" {address} ", plain_http=False) == address
    assert shown_address(kind, address) == shown
