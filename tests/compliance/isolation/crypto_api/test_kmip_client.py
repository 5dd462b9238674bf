"""The attackers' codec: what it writes is what the service's own reads, and what is no TTLV is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.isolation.crypto_api import kmip_client as ttlv
from compliance.isolation.crypto_api.kmip_client import Node, TtlvDecodeError, _alike, _Tag
from crypto_service.kmip.codec import ttlv as theirs

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
def test_what_is_written_is_read_again_by_itself_and_by_the_service(node: Node):
    data = ttlv.encode(node)
    assert ttlv.decode(data) == node
    assert theirs.encode(theirs.decode(data)) == data


@given(st.binary(max_size=64))
def test_what_is_no_ttlv_is_refused(data: bytes):
    try:
        node = ttlv.decode(data)
    except TtlvDecodeError:
        return
    assert ttlv.encode(node) == data


def test_an_answer_nested_without_end_is_refused():
    node = ttlv.octets(_Tag.DATA, b"")
    for _ in range(40):
        node = ttlv.structure(_Tag.BATCH_ITEM, node)
    with pytest.raises(TtlvDecodeError):
        ttlv.decode(ttlv.encode(node))


def test_answers_are_alike_but_for_the_time_of_day_and_the_id_that_was_asked_for():
    def answer(time: int, told: str, object_id: str) -> Node:
        header = ttlv.structure(_Tag.RESPONSE_HEADER, ttlv.integer(_Tag.TIME_STAMP, time))
        return ttlv.structure(0x42007B, header, ttlv.text(0x42007D, told), ttlv.text(_Tag.UNIQUE_IDENTIFIER, object_id))

    one = _alike(answer(1, "not there", "a"), b"a")
    assert one == _alike(answer(2, "not there", "b"), b"b")
    assert one != _alike(answer(1, "not yours", "a"), b"a")
    assert one != _alike(answer(1, "not there", "c"), b"a")
