"""The TTLV codec of the isolation checks: the service reads its output, and it rejects invalid TTLV."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.isolation.crypto_api import kmip_client as ttlv
from compliance.isolation.crypto_api.kmip_client import Node, TtlvDecodeError, _alike, _Tag
from crypto_service.kmip.codec import ttlv as service_ttlv

TAGS = st.integers(0x420001, 0x420120)
LEAVES = st.one_of(
    st.builds(ttlv.integer, TAGS, st.integers(-(2**31), 2**31 - 1)),
    st.builds(ttlv.enumeration, TAGS, st.integers(0, 2**32 - 1)),
    st.builds(ttlv.text, TAGS, st.text(max_size=40)),
    st.builds(ttlv.octets, TAGS, st.binary(max_size=40)),
)
NODES = st.recursive(
    LEAVES,
    lambda inner: st.builds(lambda tag, some: ttlv.structure(tag, *some), TAGS, st.lists(inner, max_size=4)),
    max_leaves=12,
)


@given(NODES)
def test_own_and_service_codec_decode_the_encoded_node(node: Node):
    data = ttlv.encode(node)
    assert ttlv.decode(data) == node
    assert service_ttlv.encode(service_ttlv.decode(data)) == data


@given(st.binary(max_size=64))
def test_decode_rejects_invalid_ttlv(data: bytes):
    try:
        node = ttlv.decode(data)
    except TtlvDecodeError:
        return
    assert ttlv.encode(node) == data


def test_decode_rejects_too_deep_nesting():
    node = ttlv.octets(_Tag.DATA, b"")
    for _ in range(40):
        node = ttlv.structure(_Tag.BATCH_ITEM, node)
    with pytest.raises(TtlvDecodeError):
        ttlv.decode(ttlv.encode(node))


def test_equal_answers_differ_only_in_time_stamp_and_requested_id():
    def answer(time: int, message: str, object_id: str) -> Node:
        header = ttlv.structure(_Tag.RESPONSE_HEADER, ttlv.integer(_Tag.TIME_STAMP, time))
        return ttlv.structure(
            0x42007B, header, ttlv.text(0x42007D, message), ttlv.text(_Tag.UNIQUE_IDENTIFIER, object_id)
        )

    one = _alike(answer(1, "not there", "a"), b"a")
    assert one == _alike(answer(2, "not there", "b"), b"b")
    assert one != _alike(answer(1, "not yours", "a"), b"a")
    assert one != _alike(answer(1, "not there", "c"), b"a")
