"""KMIP client of the isolation checks: some operations of KMIP 1.4 on AES keys, one in each message.

It implements the part of TTLV (tag, type, length, value; KMIP 1.4, section 9.1) that the checks need. The codec is
separate from that of the crypto service on purpose; see the package.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from compliance.isolation.crypto_api.model import CryptoApiFailing, Identity
from compliance.isolation.crypto_api.tls_client import HandshakeRejected, dial, trust


class Operation(IntEnum):
    CREATE = 0x01
    LOCATE = 0x08
    GET = 0x0A
    GET_ATTRIBUTES = 0x0B
    ACTIVATE = 0x12
    REVOKE = 0x13
    DESTROY = 0x14
    QUERY = 0x18
    ENCRYPT = 0x1F
    DECRYPT = 0x20


class Reason(IntEnum):
    NONE = 0
    ITEM_NOT_FOUND = 0x01
    CRYPTOGRAPHIC_FAILURE = 0x0A
    PERMISSION_DENIED = 0x0C
    GENERAL_FAILURE = 0x100


class _Tag(IntEnum):
    ATTRIBUTE = 0x420008
    ATTRIBUTE_NAME = 0x42000A
    ATTRIBUTE_VALUE = 0x42000B
    BATCH_COUNT = 0x42000D
    BATCH_ITEM = 0x42000F
    BLOCK_CIPHER_MODE = 0x420011
    CRYPTOGRAPHIC_PARAMETERS = 0x42002B
    IV_COUNTER_NONCE = 0x42003D
    NAME_TYPE = 0x420054
    NAME_VALUE = 0x420055
    OBJECT_TYPE = 0x420057
    OPERATION = 0x42005C
    PROTOCOL_VERSION = 0x420069
    PROTOCOL_VERSION_MAJOR = 0x42006A
    PROTOCOL_VERSION_MINOR = 0x42006B
    QUERY_FUNCTION = 0x420074
    REQUEST_HEADER = 0x420077
    REQUEST_MESSAGE = 0x420078
    REQUEST_PAYLOAD = 0x420079
    RESPONSE_HEADER = 0x42007A
    RESPONSE_PAYLOAD = 0x42007C
    RESULT_REASON = 0x42007E
    RESULT_STATUS = 0x42007F
    REVOCATION_REASON = 0x420081
    REVOCATION_REASON_CODE = 0x420082
    TEMPLATE_ATTRIBUTE = 0x420091
    TIME_STAMP = 0x420092
    UNIQUE_IDENTIFIER = 0x420094
    DATA = 0x4200C2
    AUTHENTICATED_ENCRYPTION_TAG = 0x4200FF
    CLIENT_CORRELATION_VALUE = 0x420105


_SYMMETRIC_KEY, _AES, _GCM, _CESSATION = 2, 3, 9, 6
_ENCRYPT_AND_DECRYPT = 0x4 | 0x8
_KEY_BITS = 256
_QUERY_OPERATIONS = 1
_PLACEHOLDER = b"the requested id"


@dataclass(frozen=True, slots=True)
class Sealed:
    """Result of the operation Encrypt."""

    data: bytes
    nonce: bytes
    tag: bytes


_Value = bytes | tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One TTLV item. A leaf keeps its received bytes, so that equal nodes were equal on the wire."""

    tag: int
    kind: int
    value: _Value

    def __iter__(self) -> Iterator["Node"]:
        return iter(self.value if isinstance(self.value, tuple) else ())

    def all(self, tag: int) -> Iterator["Node"]:
        return (node for node in self if node.tag == tag)

    def first(self, tag: int) -> "Node | None":
        return next(self.all(tag), None)

    @property
    def octets(self) -> bytes:
        return self.value if isinstance(self.value, bytes) else b""

    @property
    def number(self) -> int:
        return int.from_bytes(self.octets)

    @property
    def text(self) -> str:
        return self.octets.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `message` is None if the server closed the connection.

    Two answers are equal if they differ only in the time stamp and in the echo of the requested id.
    """

    message: Node | None

    @property
    def worked(self) -> bool:
        status = self._item(_Tag.RESULT_STATUS)
        return status is not None and status.number == 0

    @property
    def reason(self) -> int:
        """The result reason of a rejection, 0 without one."""
        reason = self._item(_Tag.RESULT_REASON)
        return 0 if reason is None else reason.number

    @property
    def summary(self) -> str:
        """The outcome in one phrase."""
        return f"reason {self.reason}" if self.message is not None else "connection closed"

    def ids(self) -> list[str]:
        """Return the object ids in a successful answer."""
        return [node.text for node in self._payload() or () if node.tag == _Tag.UNIQUE_IDENTIFIER]

    def data(self) -> bytes:
        return self._value(_Tag.DATA)

    def sealed(self) -> Sealed:
        nonce, tag = self._value(_Tag.IV_COUNTER_NONCE), self._value(_Tag.AUTHENTICATED_ENCRYPTION_TAG)
        return Sealed(self.data(), nonce, tag)

    def _value(self, tag: int) -> bytes:
        payload = self._payload()
        found = None if payload is None else payload.first(tag)
        return b"" if found is None else found.octets

    def _payload(self) -> Node | None:
        return self._item(_Tag.RESPONSE_PAYLOAD) if self.worked else None

    def _item(self, tag: int) -> Node | None:
        item = None if self.message is None else self.message.first(_Tag.BATCH_ITEM)
        return None if item is None else item.first(tag)


ENDED = Answer(None)


class KmipProbeClient:
    """One connection of one identity."""

    def __init__(self, host: str, port: int, identity: Identity) -> None:
        """Connect; raises as `tls_client.dial`."""
        self._connection = dial(host, port, trust(identity))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def is_open(self) -> bool:
        return self._connection.is_open()

    def ask(self, operation: Operation, *payload: Node, asked: str = "", correlation: str = "") -> Answer:
        """Return the answer with the requested id `asked` replaced by a placeholder; raises CryptoApiFailing."""
        named = (text(_Tag.CLIENT_CORRELATION_VALUE, correlation),) if correlation else ()
        version = structure(
            _Tag.PROTOCOL_VERSION, integer(_Tag.PROTOCOL_VERSION_MAJOR, 1), integer(_Tag.PROTOCOL_VERSION_MINOR, 4)
        )
        request = structure(
            _Tag.REQUEST_MESSAGE,
            structure(_Tag.REQUEST_HEADER, version, *named, integer(_Tag.BATCH_COUNT, 1)),
            structure(
                _Tag.BATCH_ITEM,
                enumeration(_Tag.OPERATION, operation),
                structure(_Tag.REQUEST_PAYLOAD, *payload),
            ),
        )
        try:
            self._connection.send(encode(request))
            head = self._connection.take(HEADER)
            answer = Answer(_alike(decode(head + self._connection.take(int.from_bytes(head[4:]))), asked.encode()))
        except HandshakeRejected:
            return ENDED
        if answer.reason == Reason.GENERAL_FAILURE:
            raise CryptoApiFailing("the service is failing: KMIP general failure")
        return answer

    def create(self, name: str, group: str = "") -> Answer:
        """Create an AES key that encrypts and decrypts, optionally in a group."""
        template = structure(
            _Tag.TEMPLATE_ATTRIBUTE,
            _attribute("Cryptographic Algorithm", enumeration(_Tag.ATTRIBUTE_VALUE, _AES)),
            _attribute("Cryptographic Length", integer(_Tag.ATTRIBUTE_VALUE, _KEY_BITS)),
            _attribute("Cryptographic Usage Mask", integer(_Tag.ATTRIBUTE_VALUE, _ENCRYPT_AND_DECRYPT)),
            _named(name),
            *((_grouped(group),) if group else ()),
        )
        return self.ask(Operation.CREATE, enumeration(_Tag.OBJECT_TYPE, _SYMMETRIC_KEY), template)

    def about(self, operation: Operation, object_id: str, correlation: str = "") -> Answer:
        """Send an operation that needs only an object id, or Revoke with the reason cessation of operation."""
        it = text(_Tag.UNIQUE_IDENTIFIER, object_id)
        code = enumeration(_Tag.REVOCATION_REASON_CODE, _CESSATION)
        why = (structure(_Tag.REVOCATION_REASON, code),) if operation is Operation.REVOKE else ()
        return self.ask(operation, it, *why, asked=object_id, correlation=correlation)

    def encrypt(self, object_id: str, data: bytes, correlation: str = "") -> Answer:
        it = text(_Tag.UNIQUE_IDENTIFIER, object_id)
        return self.ask(
            Operation.ENCRYPT, it, _gcm(), octets(_Tag.DATA, data), asked=object_id, correlation=correlation
        )

    def decrypt(self, object_id: str, sealed: Sealed) -> Answer:
        return self.ask(
            Operation.DECRYPT,
            text(_Tag.UNIQUE_IDENTIFIER, object_id),
            _gcm(),
            octets(_Tag.DATA, sealed.data),
            octets(_Tag.IV_COUNTER_NONCE, sealed.nonce),
            octets(_Tag.AUTHENTICATED_ENCRYPTION_TAG, sealed.tag),
            asked=object_id,
        )

    def locate(self, name: str = "") -> Answer:
        """Find own objects, optionally those with a name."""
        return self.ask(Operation.LOCATE, *((_named(name),) if name else ()))

    def query(self) -> Answer:
        """Query the supported operations, which every authorized client may do."""
        return self.ask(Operation.QUERY, enumeration(_Tag.QUERY_FUNCTION, _QUERY_OPERATIONS))

    def made_before(self, group: str, moment: int) -> Answer:
        """Find own objects of a group that were created up to `moment`, in seconds since the epoch."""
        dates = (_attribute("Initial Date", date(_Tag.ATTRIBUTE_VALUE, at)) for at in (0, moment))
        return self.ask(Operation.LOCATE, _grouped(group), *dates)


def _attribute(name: str, value: Node) -> Node:
    return structure(_Tag.ATTRIBUTE, text(_Tag.ATTRIBUTE_NAME, name), value)


def _named(name: str) -> Node:
    value = structure(_Tag.ATTRIBUTE_VALUE, text(_Tag.NAME_VALUE, name), enumeration(_Tag.NAME_TYPE, 1))
    return _attribute("Name", value)


def _grouped(group: str) -> Node:
    return _attribute("Object Group", text(_Tag.ATTRIBUTE_VALUE, group))


def _gcm() -> Node:
    return structure(_Tag.CRYPTOGRAPHIC_PARAMETERS, enumeration(_Tag.BLOCK_CIPHER_MODE, _GCM))


def _alike(node: Node, asked: bytes) -> Node:
    """Return an answer without its time stamp, and with a placeholder for the requested id."""
    if isinstance(node.value, bytes):
        value = node.value.replace(asked, _PLACEHOLDER) if asked else node.value
        return Node(node.tag, node.kind, value)
    changing = (_Tag.TIME_STAMP,) if node.tag == _Tag.RESPONSE_HEADER else ()
    return Node(node.tag, node.kind, tuple(_alike(child, asked) for child in node.value if child.tag not in changing))


STRUCTURE, INTEGER, ENUMERATION, TEXT, OCTETS, DATE = 1, 2, 5, 7, 8, 9
HEADER = 8
_DEEPEST = 32


class TtlvDecodeError(CryptoApiFailing):
    """The received bytes are not TTLV."""

    message = "an answer of the KMIP API cannot be decoded"


def structure(tag: int, *nodes: Node) -> Node:
    return Node(tag, STRUCTURE, nodes)


def integer(tag: int, value: int) -> Node:
    return Node(tag, INTEGER, struct.pack(">i", value))


def enumeration(tag: int, value: int) -> Node:
    return Node(tag, ENUMERATION, struct.pack(">I", value))


def text(tag: int, value: str) -> Node:
    return Node(tag, TEXT, value.encode())


def octets(tag: int, value: bytes) -> Node:
    return Node(tag, OCTETS, value)


def date(tag: int, seconds: int) -> Node:
    return Node(tag, DATE, struct.pack(">q", seconds))


def encode(node: Node) -> bytes:
    value = node.value if isinstance(node.value, bytes) else b"".join(map(encode, node.value))
    return struct.pack(">I", node.tag << 8 | node.kind) + struct.pack(">I", len(value)) + value + bytes(-len(value) % 8)


def decode(data: bytes) -> Node:
    """Return the single item in `data`; raises TtlvDecodeError."""
    node, end = _decode(data, 0, len(data), _DEEPEST)
    if end != len(data):
        raise TtlvDecodeError
    return node


def _decode(data: bytes, begin: int, end: int, deeper: int) -> tuple[Node, int]:
    if begin + HEADER > end or not deeper:
        raise TtlvDecodeError
    head, length = struct.unpack_from(">II", data, begin)
    first, last = begin + HEADER, begin + HEADER + length
    after = last + (-length % 8)
    if after > end:
        raise TtlvDecodeError
    tag, kind = head >> 8, head & 0xFF
    if kind != STRUCTURE:
        if any(data[last:after]):
            raise TtlvDecodeError
        return Node(tag, kind, data[first:last]), after
    nodes, at = [], first
    while at < last:
        node, at = _decode(data, at, last, deeper - 1)
        nodes.append(node)
    return Node(tag, kind, tuple(nodes)), after
