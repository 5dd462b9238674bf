"""KMIP requests of all kinds of clients over separate TLS connections."""

import ssl
from typing import Any

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation, ResultReason, RevocationReasonCode
from crypto_service.kmip.codec.fields import choice, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.messages import batch_item, message
from tests.crypto_service.kmip.scene import creation

_HEADER = 8


def exchange(connection: ssl.SSLSocket, request: bytes) -> Item:
    """Send one message and return the response."""
    connection.sendall(request)
    return receive(connection)


def receive(connection: ssl.SSLSocket) -> Item:
    """Return the next message; raises ConnectionResetError if the connection closes."""
    received = _read(connection, _HEADER)
    return ttlv.decode(received + _read(connection, int.from_bytes(received[4:])))


def send(
    connection: ssl.SSLSocket, *items: Item, minor: int = 4, major: int = 1, header: tuple[Item, ...] = ()
) -> list[Item]:
    """Send a batch and return the batch items of the response."""
    answer = exchange(connection, ttlv.encode(message(*items, minor=minor, major=major, header=header)))
    return list(answer.all(Tag.BATCH_ITEM))


def ask(
    connection: ssl.SSLSocket, item: Item, *, minor: int = 4, major: int = 1, header: tuple[Item, ...] = ()
) -> Item:
    """Send one request, which must succeed, and return the payload of the response."""
    (answer,) = send(connection, item, minor=minor, major=major, header=header)
    message = answer.first(Tag.RESULT_MESSAGE)
    assert reason_of(answer) is None, message and message.value
    return part_of(answer, Tag.RESPONSE_PAYLOAD)


def part_of(item: Item, *path: int) -> Item:
    """Return the item at a path of tags in a structure."""
    for tag in path:
        inner = item.first(tag)
        assert inner is not None, f"no {tag:x}"
        item = inner
    return item


def value_of(item: Item, *path: int) -> Any:
    return part_of(item, *path).value


def activated_key(connection: ssl.SSLSocket) -> str:
    """Create a key, activate it, and return its id."""
    made = part_of(ask(connection, batch_item(*creation())), Tag.UNIQUE_IDENTIFIER)
    ask(connection, batch_item(Operation.ACTIVATE, made))
    return str(made.value)


def revocation(object_id: str, code: int = RevocationReasonCode.CESSATION_OF_OPERATION) -> Item:
    reason = structure(Tag.REVOCATION_REASON, choice(Tag.REVOCATION_REASON_CODE, code))
    return batch_item(Operation.REVOKE, text(Tag.UNIQUE_IDENTIFIER, object_id), reason)


def reason_of(answer: Item) -> ResultReason | None:
    """Return the reason of a rejected batch item, None for a successful one."""
    reason = answer.first(Tag.RESULT_REASON)
    return None if reason is None else ResultReason(reason.value)


def _read(connection: ssl.SSLSocket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            raise ConnectionResetError
        received += data
    return bytes(received)
