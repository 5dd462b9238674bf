"""What answers wrongly, slowly or not at all is trouble and no result; what ends the connection is an answer."""

import dataclasses
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server

import pytest

import fronts.dialing
from fronts.dialing import dial, trust
from fronts.https import ENDED as HTTPS_ENDED
from fronts.https import HttpsDoor
from fronts.interfaces import FrontsAway, FrontsFailing, Identity
from fronts.kmip import ENDED as KMIP_ENDED
from fronts.kmip import KmipDoor
from tests.crypto.https import authority
from tests.ports import free_port

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
def answering(*data: bytes, wait: float = 0.0, folder: Path) -> Iterator[int]:
    """Serve one connection: read what comes, send `data`, end it; yield the port."""
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
                time.sleep(wait)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


OK = b"HTTP/1.1 200 OK\r\n"
HTTPS = {
    "no HTTP": b"220 ready\r\n\r\n",
    "no length": OK + b"\r\n{}",
    "a length that is none": OK + b"content-length: -2\r\n\r\n{}",
    "more than is taken": OK + b"content-length: 99999999\r\n\r\n",
    "a head without end": OK + b"x: y\r\n" * 200_000,
    "no JSON": b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\noops",
    "unavailable": b"HTTP/1.1 503 X\r\ncontent-length: 2\r\n\r\n{}",
}
KMIP = {
    "no TTLV": b"\x42\x00\x7b\x01\x00\x00\x00\x08 garbage",
    "more than is taken": b"\x42\x00\x7b\x01\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("what", list(HTTPS))
def test_what_is_no_answer_of_the_https_door_is_trouble(what: str, tmp_path: Path):
    with (
        answering(HTTPS[what], folder=tmp_path) as port,
        HttpsDoor("localhost", port, ORDERS) as door,
        pytest.raises(FrontsFailing),
    ):
        _ = door.encrypt("r", b"x").code


@pytest.mark.parametrize("what", list(KMIP))
def test_what_is_no_answer_of_the_kmip_door_is_trouble(what: str, tmp_path: Path):
    with (
        answering(KMIP[what], folder=tmp_path) as port,
        KmipDoor("localhost", port, ORDERS) as door,
        pytest.raises(FrontsFailing),
    ):
        door.locate()


def test_a_connection_that_is_ended_instead_is_an_answer(tmp_path: Path):
    with answering(b"HTTP/1.1 200", folder=tmp_path) as port, HttpsDoor("localhost", port, ORDERS) as door:
        assert door.encrypt("r", b"x") == HTTPS_ENDED
    with answering(folder=tmp_path) as port, KmipDoor("localhost", port, ORDERS) as door:
        assert door.locate() == KMIP_ENDED


def test_silence_is_trouble_and_takes_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fronts.dialing, "ANSWER_SECONDS", 0.2)
    with answering(wait=1.0, folder=tmp_path) as port, HttpsDoor("localhost", port, ORDERS) as door:
        began = time.monotonic()
        with pytest.raises(FrontsFailing):
            door.encrypt("r", b"x")
        assert time.monotonic() - began < 0.8


def test_an_impostor_is_trouble_and_nobody_is_away(tmp_path: Path):
    stranger = dataclasses.replace(ORDERS, root_pem=authority._authority("another root", None, None).pem)
    with answering(folder=tmp_path) as port, pytest.raises(FrontsFailing):
        dial("localhost", port, trust(stranger))
    with pytest.raises(FrontsAway):
        dial("localhost", free_port(), trust(ORDERS))
