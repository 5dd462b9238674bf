"""Message boundaries, and responses to messages that are not processed."""

import time
from dataclasses import dataclass
from struct import Struct

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation, ResultReason, ResultStatus
from crypto_service.kmip.codec.fields import choice, moment, number, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType

VERSIONS = ((2, 1), (2, 0), (1, 4), (1, 3), (1, 2), (1, 1), (1, 0))
"""The supported protocol versions, newest first."""
VERSION_2 = 5
"""`feature_level` of KMIP 2.0, the first version with attributes by tags."""
_REQUEST = Tag.REQUEST_MESSAGE << 8 | ItemType.STRUCTURE
_HEAD = Struct(">II")
_VERSION = slice(16, 56)  # the protocol version is first in the header, which is first in the message
_ASKING = frozenset({Operation.GET, Operation.GET_ATTRIBUTES, Operation.LOCATE, Operation.CHECK})


def feature_level(protocol: tuple[int, int]) -> int:
    """Return the position of a version among all: 0 to 4 for 1.0 to 1.4, then 5 and 6 for 2.0 and 2.1."""
    major, minor = protocol
    return minor if major == 1 else VERSION_2 + minor


class InvalidFrame(Exception):
    """The bytes cannot be the beginning of a request, or the request is too long."""


def size_of(beginning: bytes | bytearray, limit: int) -> int | None:
    """Return the size in bytes of the message at `beginning`, None when too few bytes are available.

    Raises: InvalidFrame.
    """
    if len(beginning) < ttlv.HEADER_BYTES:
        if not _REQUEST.to_bytes(4, "big").startswith(beginning[:4]):
            raise InvalidFrame
        return None
    head, length = _HEAD.unpack_from(beginning)
    if head != _REQUEST or length + ttlv.HEADER_BYTES > limit:
        raise InvalidFrame
    size: int = length + ttlv.HEADER_BYTES
    return size


def is_whole(data: bytes, limit: int) -> bool:
    """Return whether `data` is exactly one message of at most `limit` bytes, by its length."""
    size = len(data)
    return ttlv.HEADER_BYTES <= size <= limit and _HEAD.unpack_from(data) == (_REQUEST, size - ttlv.HEADER_BYTES)


def asks_only(request: Item) -> bool:
    """Return whether a request only reads, and so contains no secret: no material, data or credentials."""
    header = request.first(Tag.REQUEST_HEADER)
    operations = [item.first(Tag.OPERATION) for item in request.all(Tag.BATCH_ITEM)]
    return (
        header is not None
        and header.first(Tag.AUTHENTICATION) is None
        and all(operation is not None and operation.value in _ASKING for operation in operations)
    )


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The error for a message that was not processed."""

    reason: ResultReason
    message: str

    def items(self) -> tuple[Item, ...]:
        """Return the end of a batch item."""
        return (
            choice(Tag.RESULT_STATUS, ResultStatus.OPERATION_FAILED),
            choice(Tag.RESULT_REASON, self.reason),
            text(Tag.RESULT_MESSAGE, self.message),
        )


def refuse(beginning: bytes, refusal: ErrorReply) -> bytes:
    """Return the response to a message that is not or cannot be read; empty when its version cannot be read."""
    try:
        version = ttlv.decode(beginning[_VERSION])
    except ttlv.TtlvError:
        return b""
    major, minor = version.first(Tag.PROTOCOL_VERSION_MAJOR), version.first(Tag.PROTOCOL_VERSION_MINOR)
    if major is None or minor is None or (major.value, minor.value) not in VERSIONS:
        return b""
    header = structure(
        Tag.RESPONSE_HEADER, version, moment(Tag.TIME_STAMP, int(time.time())), number(Tag.BATCH_COUNT, 1)
    )
    return ttlv.encode(structure(Tag.RESPONSE_MESSAGE, header, structure(Tag.BATCH_ITEM, *refusal.items())))
