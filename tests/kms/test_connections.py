"""A request to a customer's key server ends at its deadlines: one for the connection, and one for the response."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from core.errors.keys import CustomerKeyError
from kms.network.http import Server, Transport
from tests.dripping import TLS_RECORD, dripping_server
from tests.kms.fault_proxy import FaultProxy, answering

pytestmark = pytest.mark.integration

SECONDS = 4.0


def send(address: str, seconds: float) -> int:
    transport = Transport(seconds, lambda _address, _encrypted: True)
    return transport.send(Server.at(address), "GET", "/", {}).status


@contextmanager
def slow_to_accept(seconds: float) -> Iterator[int]:
    """Yield the port of a server that accepts connections after a time and then drips a TLS handshake."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        others = [socket.socket() for _ in range(3)]  # fill the queue, so that the kernel drops further attempts
        for other in others:
            other.settimeout(0)
            other.connect_ex(listening.getsockname())

        def drip(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.sendall(TLS_RECORD)
                for _ in range(200):
                    connection.sendall(b".")
                    time.sleep(0.1)

        def accept() -> None:
            time.sleep(seconds)
            with suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        for other in others:
            other.close()
        listening.shutdown(socket.SHUT_RDWR)


def test_slow_connection_leaves_less_time_for_its_handshake() -> None:
    with slow_to_accept(SECONDS / 3) as port:  # the client's kernel repeats its attempt after one and three seconds
        began = time.monotonic()
        with pytest.raises(CustomerKeyError):
            send(f"https://127.0.0.1:{port}", SECONDS)
        assert 3 < time.monotonic() - began < 1.4 * SECONDS


@pytest.mark.parametrize("head", [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"])
def test_dripping_response_ends_at_its_deadline(head: bytes) -> None:
    with dripping_server(b"", head) as port:
        began = time.monotonic()
        with pytest.raises(CustomerKeyError):
            send(f"http://127.0.0.1:{port}", 1.0)
        assert time.monotonic() - began < 4


def test_deadline_begins_again_with_each_request_of_a_connection() -> None:
    transport = Transport(0.5, lambda _address, _encrypted: True)
    with FaultProxy.running("http://127.0.0.1") as proxy, proxy.spoiling(answering(200, {})):
        for _ in range(2):
            assert transport.send(Server.at(proxy.url), "POST", "/", {}, b"{}").status == 200
            time.sleep(0.6)
        assert proxy.connections == 1
