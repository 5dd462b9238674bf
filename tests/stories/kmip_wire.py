"""Requests as clients of all kinds send them, byte for byte where it matters, over their own TLS connections."""

import ssl

from crypto.kmip import ttlv
from crypto.kmip.enums import ResultReason
from crypto.kmip.items import Item
from crypto.kmip.tags import Tag
from tests.crypto.kmip.messages import message

_HEADER = 8


def exchange(connection: ssl.SSLSocket, request: bytes) -> Item:
    """Send one message and return the answer to it."""
    connection.sendall(request)
    received = _read(connection, _HEADER)
    return ttlv.decode(received + _read(connection, int.from_bytes(received[4:])))


def send(connection: ssl.SSLSocket, *items: Item, minor: int = 4, header: tuple[Item, ...] = ()) -> list[Item]:
    """Send a batch and return the batch items of the answer."""
    answer = exchange(connection, ttlv.encode(message(*items, minor=minor, header=header)))
    return list(answer.all(Tag.BATCH_ITEM))


def ask(connection: ssl.SSLSocket, item: Item, *, minor: int = 4, header: tuple[Item, ...] = ()) -> Item:
    """Send one request, which must succeed, and return the payload of its answer."""
    (answer,) = send(connection, item, minor=minor, header=header)
    assert reason_of(answer) is None, answer.first(Tag.RESULT_MESSAGE)
    payload = answer.first(Tag.RESPONSE_PAYLOAD)
    assert payload is not None
    return payload


def reason_of(answer: Item) -> ResultReason | None:
    """Return why a batch item was refused, None when it was not."""
    reason = answer.first(Tag.RESULT_REASON)
    return None if reason is None else ResultReason(reason.value)


def _read(connection: ssl.SSLSocket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = connection.recv(size - len(received))
        assert data, "the connection was closed in the middle of an answer"
        received += data
    return bytes(received)
