"""HTTP clients of the product: no proxy and no password file in the environment gets what they send."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from activities.notifications import CallbackSender
from config.otlp import OtlpExport
from core.notifications import Channel, Notification, NotificationKind
from core.tracing.spans import SERVER, TraceContext
from kms.network.http import Server, Transport
from marketplace.enrolment.jwks import read_keys
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.errors import AnswerNotUnderstood
from openkcm.agent.schedule import ServerClock
from tests.kms.fault_proxy import FaultProxy, answering
from tests.production.topology.certificates import CertificateAuthority
from tests.tracing.collector import tracer_into
from vault.auth.client import token_session

pytestmark = pytest.mark.integration

SECRET = "whsec_" + "Q2FsbGJhY2sgc2VjcmV0IG9mIHRoZSB0ZXN0cw=="
TRACE = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
NOTIFICATION = Notification(
    message_id="id-1",
    tenant_id="acme-corp",
    channel=Channel.CALLBACK,
    kind=NotificationKind.READY,
    subject="subject",
    body="body",
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def send_callback(url: str) -> None:
    with closing(CallbackSender(url, [SECRET], "https://cmk.openkcm.io")) as sender:
        sender.send(NOTIFICATION)


def export_span(url: str) -> None:
    spans = []
    with tracer_into(spans).span("request", SERVER, TRACE):
        pass
    with closing(OtlpExport(url, None, "worker")) as export:
        export.record(spans[0])


def read_key_server(url: str) -> None:
    token_session(url, "token").read("sys/health")


def use_root_key(url: str) -> None:
    Transport(5.0, lambda _address, _encrypted: True).send(Server.at(url), "GET", "/", {})


def read_issuer(url: str) -> None:
    asyncio.run(read_keys(url))


def discover(url: str) -> None:
    with closing(EnrolmentClient(url, ServerClock())) as client, pytest.raises(AnswerNotUnderstood):
        client.discover()


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Return a listening proxy that the environment names, beside a .netrc with a password for this machine."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login attacker password hunter2\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    with FaultProxy.running("http://127.0.0.1:1") as proxy, proxy.spoiling(answering(200, {})):
        for name in PROXIES:
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        yield proxy


@pytest.mark.parametrize(
    "send",
    [send_callback, export_span, read_key_server, use_root_key, read_issuer, discover],
    ids=lambda it: it.__name__,
)
def test_proxy_and_password_of_the_environment_are_not_used(proxy: FaultProxy, send: Callable[[str], None]) -> None:
    with FaultProxy.running("http://127.0.0.1:1") as receiver, receiver.spoiling(answering(200, {"keys": []})):
        send(receiver.url)
    assert proxy.connections == 0
    assert receiver.seen
    assert not any("Authorization" in request.headers for request in receiver.seen)


@pytest.mark.parametrize("send", [send_callback, read_issuer], ids=lambda it: it.__name__)
def test_private_authority_in_the_environment_is_trusted(
    send: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = CertificateAuthority(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue("receiver", tmp_path, "127.0.0.1"))
    with FaultProxy.running("http://127.0.0.1:1", tls) as receiver, receiver.spoiling(answering(200, {"keys": []})):
        url = receiver.url.replace("http:", "https:")
        with pytest.raises(Exception, match=r"respond|certificate"):
            send(url)
        assert receiver.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        send(url)
        assert len(receiver.seen) == 1
