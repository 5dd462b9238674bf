"""An invalid, late or missing answer is an error and no result; a closed connection is an answer."""

import dataclasses
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

import compliance.isolation.crypto_api.tls_client
from compliance.isolation.crypto_api.https_client import ENDED as HTTPS_ENDED
from compliance.isolation.crypto_api.https_client import HttpsProbeClient
from compliance.isolation.crypto_api.kmip_client import ENDED as KMIP_ENDED
from compliance.isolation.crypto_api.kmip_client import KmipProbeClient
from compliance.isolation.crypto_api.model import CryptoApiFailing, CryptoApiUnreachable, Identity
from compliance.isolation.crypto_api.tls_client import dial, trust
from tests.crypto_service import authority

pytestmark = pytest.mark.integration

LEAF = authority.service_leaf("acme", "orders")
ORDERS = Identity(
    "acme",
    "orders",
    LEAF.serial,
    LEAF.pem + authority.tenant_authority("acme").pem,
    authority.root().pem,
    LEAF.certificate.not_valid_after_utc,
    LEAF.key_pem.encode(),
)


@contextmanager
def answering(*data: bytes, until: Callable[[], object] = bool, folder: Path) -> Iterator[int]:
    """Serve one connection: read the request, send `data`, wait for `until`, close; yield the port."""
    context, leaf = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), authority.server_leaf()
    file = folder / "server.pem"
    file.write_text(leaf.key_pem + leaf.pem)
    context.load_cert_chain(file)
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            plain, _ = listening.accept()
            with suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as stream:
                stream.recv(65536)
                for piece in data:
                    stream.sendall(piece)
                until()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


def ask(kind: Callable[..., Any], port: int, what: Callable[[Any], object]) -> object:
    with kind("localhost", port, ORDERS) as client:
        return what(client)


OK = b"HTTP/1.1 200 OK\r\n"
HTTPS = {
    "no HTTP": b"220 ready\r\n\r\n",
    "no length": OK + b"\r\n{}",
    "invalid length": OK + b"content-length: -2\r\n\r\n{}",
    "too large": OK + b"content-length: 99999999\r\n\r\n",
    "endless head": OK + b"x: y\r\n" * 200_000,
    "no JSON": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\noops",
    "unavailable": b"HTTP/1.1 503 X\r\ncontent-length: 2\r\n\r\n{}",
}
KMIP = {
    "no TTLV": b"\x42\x00\x7b\x01\x00\x00\x00\x08 garbage",
    "too large": b"\x42\x00\x7b\x01\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("answer", HTTPS.values(), ids=HTTPS)
def test_invalid_answer_over_https_is_an_error(answer: bytes, tmp_path: Path) -> None:
    with answering(answer, folder=tmp_path) as port, pytest.raises(CryptoApiFailing):
        ask(HttpsProbeClient, port, lambda client: client.encrypt("r", b"x").code)


@pytest.mark.parametrize("answer", KMIP.values(), ids=KMIP)
def test_invalid_answer_over_kmip_is_an_error(answer: bytes, tmp_path: Path) -> None:
    with answering(answer, folder=tmp_path) as port, pytest.raises(CryptoApiFailing):
        ask(KmipProbeClient, port, lambda client: client.locate())


def test_closed_connection_is_an_answer(tmp_path: Path) -> None:
    with answering(b"HTTP/1.1 200", folder=tmp_path) as port:
        assert ask(HttpsProbeClient, port, lambda client: client.encrypt("r", b"x")) == HTTPS_ENDED
    with answering(folder=tmp_path) as port:
        assert ask(KmipProbeClient, port, lambda client: client.locate()) == KMIP_ENDED


def test_silence_is_an_error_after_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()
    monkeypatch.setattr(compliance.isolation.crypto_api.tls_client, "ANSWER_SECONDS", 0.5)
    with answering(until=given_up.wait, folder=tmp_path) as port:
        with pytest.raises(CryptoApiFailing), HttpsProbeClient("localhost", port, ORDERS) as client:
            client.encrypt("r", b"x")
        given_up.set()


def test_untrusted_server_is_an_error_and_a_missing_one_is_unreachable(tmp_path: Path, unused_port: int) -> None:
    untrusted = dataclasses.replace(ORDERS, root_pem=authority._authority("another root", None, None).pem)
    with answering(folder=tmp_path) as port, pytest.raises(CryptoApiFailing):
        dial("localhost", port, trust(untrusted))
    with pytest.raises(CryptoApiUnreachable):
        dial("localhost", unused_port, trust(ORDERS))
