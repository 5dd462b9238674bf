"""A receiver that reads or acknowledges a batch byte by byte counts as unavailable at the deadline of the batch."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from compliance.audit.forwarding.batches import Batch, Form
from compliance.audit.forwarding.sinks import open_receiver
from core.errors.compliance import ReceiverUnavailable
from openkcm.contract.audit_events import StoredRecord
from tests.cli.audit.forward_stand import Identity, make_identity
from tests.core.proving import TENANT, a_stream
from tests.dripping import TLS_RECORD, dripping_server

pytestmark = pytest.mark.integration

SECONDS = 1.0
BATCH = Batch(TENANT, Form.OPENKCM, a_stream(3), "kcm-1")


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return make_identity(tmp_path)


@contextmanager
def ends_at_the_deadline() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(ReceiverUnavailable):
        yield
    assert SECONDS / 2 < time.monotonic() - began < 5 * SECONDS


@pytest.mark.parametrize(
    ("to", "encrypted", "replies"),
    [
        ("https://", False, [TLS_RECORD]),
        ("https://", True, [b"", b"HTTP/1.1 200 OK\r\nX-Drip: "]),
        ("https://", True, [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]),
        ("syslog+tls://", False, [TLS_RECORD]),
        ("syslog+tcp://", False, [b""]),
    ],
    ids=["https handshake", "https headers", "https body", "syslog handshake", "syslog"],
)
def test_dripping_receiver_is_unavailable(
    to: str,
    encrypted: bool,  # noqa: FBT001 - a parameter
    replies: list[bytes],
    identity: Identity,
) -> None:
    with dripping_server(*replies, tls=identity.context() if encrypted else None) as port:
        receiver = open_receiver(f"{to}127.0.0.1:{port}", None, identity.pem, SECONDS)
        with closing(receiver), ends_at_the_deadline():
            receiver.deliver(BATCH)


def test_deadline_begins_again_with_each_batch_of_a_connection(identity: Identity) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    # The client sends headers and body separately, and the first part of a request is enough for a reply.
    with dripping_server(b"", answer, drip=b"", tls=identity.context()) as port:
        receiver = open_receiver(f"https://127.0.0.1:{port}", None, identity.pem, SECONDS)
        with closing(receiver):
            receiver.deliver(BATCH)
            time.sleep(SECONDS)
            with ends_at_the_deadline():
                receiver.deliver(BATCH)


def test_receiver_that_reads_slowly_is_unavailable(identity: Identity) -> None:
    record = '{"name": "x", "padding": "' + "x" * 100_000 + '"}'
    batch = Batch(TENANT, Form.OPENKCM, [StoredRecord(n, record, bytes(32)) for n in range(1, 101)], "kcm-1")
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        closing(
            open_receiver(f"syslog+tls://127.0.0.1:{listening.getsockname()[1]}", None, identity.pem, SECONDS)
        ) as receiver,
    ):

        def read_slowly() -> None:
            connection, _ = listening.accept()
            with connection, identity.context().wrap_socket(connection, server_side=True) as peer:
                for _ in range(300):
                    if not peer.recv(10_000):
                        return
                    time.sleep(0.1)

        reading = threading.Thread(target=read_slowly, daemon=True)
        reading.start()
        with ends_at_the_deadline():
            receiver.deliver(batch)
