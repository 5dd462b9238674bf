import struct

import pytest

from crypto_service.kmip.codec import framing, ttlv
from crypto_service.kmip.codec.enums import Operation, ResultReason, ResultStatus
from crypto_service.kmip.codec.fields import octets, structure
from crypto_service.kmip.codec.framing import ErrorReply, InvalidFrame
from crypto_service.kmip.codec.tags import Tag
from tests.crypto_service.kmip.messages import a_get, batch_item, encoded, message, version

LIMIT = 4096
REFUSAL = ErrorReply(ResultReason.INVALID_MESSAGE, "no")


def test_message_size_is_read_from_the_first_eight_bytes():
    whole = encoded()
    assert [framing.size_of(whole[:count], LIMIT) for count in range(8)] == [None] * 8
    assert framing.size_of(whole[:8], LIMIT) == len(whole)
    assert framing.size_of(bytearray(whole + b"next"), LIMIT) == len(whole)


def test_only_exactly_one_request_within_the_limit_is_whole():
    whole = encoded()
    assert framing.is_whole(whole, len(whole))
    assert not framing.is_whole(whole, len(whole) - 1)
    assert not any(framing.is_whole(whole[:count], LIMIT) for count in range(len(whole)))
    assert not framing.is_whole(whole + b"B", LIMIT)
    assert not framing.is_whole(b"\x42\x00\x7b" + whole[3:], LIMIT)


@pytest.mark.parametrize(
    "beginning",
    [
        *(encoded()[:4] + struct.pack(">I", length) for length in (LIMIT - 7, LIMIT, 0xFFFFFFFF)),
        *(b"G", b"B\0\0", encoded()[:3] + b"\x02", b"\x42\x00\x7b\x01" + bytes(4)),
    ],
)
def test_invalid_beginning_or_size_above_the_limit_is_rejected(beginning):
    with pytest.raises(InvalidFrame):
        framing.size_of(beginning, LIMIT)


@pytest.mark.parametrize("minor", range(5))
def test_error_response_has_the_version_of_the_request(minor):
    response = ttlv.decode(framing.refuse(encoded(a_get(minor=minor)), REFUSAL))
    header, item = response.children()
    assert header.first(Tag.PROTOCOL_VERSION) == version(minor)
    assert header.first(Tag.BATCH_COUNT).value == 1
    assert [part.value for part in item.children()] == [
        ResultStatus.OPERATION_FAILED,
        ResultReason.INVALID_MESSAGE,
        "no",
    ]


@pytest.mark.parametrize("beginning", [b"", encoded()[:20], encoded(a_get(minor=5)), encoded()[:16] + bytes(40)])
def test_error_response_is_empty_without_a_known_version(beginning):
    assert framing.refuse(beginning, REFUSAL) == b""


def test_asks_only_is_false_for_requests_with_secrets():
    assert framing.asks_only(a_get())
    credentials = structure(Tag.AUTHENTICATION, structure(Tag.CREDENTIAL))
    assert not framing.asks_only(a_get(header=(credentials,)))
    register = batch_item(Operation.REGISTER, octets(Tag.KEY_MATERIAL, b"secret"))
    assert not framing.asks_only(message(register))
    assert not framing.asks_only(message(*a_get().all(Tag.BATCH_ITEM), register))
