import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kmip.core import enums as oracle_enums
from kmip.core import primitives as oracle
from kmip.core.utils import BytearrayStream

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType

TAG = 0x420020


def structure(*children: Item, tag: int = TAG) -> Item:
    return Item(tag, ItemType.STRUCTURE, children)


# KMIP 1.4, section 9.1.2, example by example.
EXAMPLES = [
    (ItemType.INTEGER, 8, "420020 02 00000004 0000000800000000"),
    (ItemType.LONG_INTEGER, 123456789000000000, "420020 03 00000008 01B69B4BA5749200"),
    (ItemType.BIG_INTEGER, 1234567890000000000000000000, "420020 04 00000010 0000000003FD35EB6BC2DF4618080000"),
    (ItemType.ENUMERATION, 255, "420020 05 00000004 000000FF00000000"),
    (ItemType.BOOLEAN, True, "420020 06 00000008 0000000000000001"),
    (ItemType.TEXT_STRING, "Hello World", "420020 07 0000000B 48656C6C6F20576F726C640000000000"),
    (ItemType.BYTE_STRING, b"\x01\x02\x03", "420020 08 00000003 0102030000000000"),
    (ItemType.DATE_TIME, 1205495800, "420020 09 00000008 0000000047DA67F8"),
    (ItemType.INTERVAL, 864000, "420020 0A 00000004 000D2F0000000000"),
    (
        ItemType.STRUCTURE,
        (Item(0x420004, ItemType.ENUMERATION, 254), Item(0x420005, ItemType.INTEGER, 255)),
        "420020 01 00000020 420004 05 00000004 000000FE00000000 420005 02 00000004 000000FF00000000",
    ),
]


@pytest.mark.parametrize(("kind", "value", "encoding"), EXAMPLES, ids=lambda part: getattr(part, "name", ""))
def test_specification_examples_decode_and_encode(kind, value, encoding):
    assert ttlv.decode(bytes.fromhex(encoding)) == Item(TAG, kind, value)
    assert ttlv.encode(Item(TAG, kind, value)) == bytes.fromhex(encoding)


tags = st.integers(0x420000, 0x42FFFF) | st.integers(0x540000, 0x54FFFF)
int32, int64 = st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
word = st.integers(0, (1 << 32) - 1)
values = {
    ItemType.INTEGER: int32,
    ItemType.LONG_INTEGER: int64,
    ItemType.BIG_INTEGER: st.integers(-(1 << 300), 1 << 300),
    ItemType.ENUMERATION: word,
    ItemType.BOOLEAN: st.booleans(),
    ItemType.TEXT_STRING: st.text(max_size=40),
    ItemType.BYTE_STRING: st.binary(max_size=40),
    ItemType.DATE_TIME: int64,
    ItemType.INTERVAL: word,
}
primitives = st.one_of(*(st.builds(Item, tags, st.just(kind), value) for kind, value in values.items()))
items = st.recursive(
    primitives,
    lambda inner: st.builds(Item, tags, st.just(ItemType.STRUCTURE), st.lists(inner, max_size=5).map(tuple)),
    max_leaves=30,
)


@given(items)
def test_decode_returns_the_encoded_item(item):
    assert ttlv.decode(ttlv.encode(item)) == item


@given(st.integers(0, 2000), st.integers(1, 400))
def test_decoding_in_steps_returns_the_same_and_never_takes_long(count, width):
    """Structures of `width` items each, so that steps end inside and between structures."""
    numbers = [Item(TAG, ItemType.INTEGER, number) for number in range(count)]
    item = structure(*(structure(*numbers[begin : begin + width]) for begin in range(0, count, width)))
    data = ttlv.encode(item)
    assert ttlv.decode(data) == item
    assert len(list(ttlv.decode_in_steps(data))) == (1 + count + len(item.children())) // ttlv.STEP_ITEMS


@given(st.binary(max_size=64) | items.map(ttlv.encode).flatmap(lambda whole: st.binary(max_size=8).map(whole.__add__)))
def test_encode_returns_the_decoded_bytes(data):
    try:
        item = ttlv.decode(data)
    except ttlv.TtlvError:
        return
    if item.type is not ItemType.BIG_INTEGER:  # may contain redundant sign bytes
        assert ttlv.encode(item) == data


ORACLES = {
    ItemType.INTEGER: oracle.Integer,
    ItemType.LONG_INTEGER: oracle.LongInteger,
    ItemType.BIG_INTEGER: oracle.BigInteger,
    ItemType.BOOLEAN: oracle.Boolean,
    ItemType.TEXT_STRING: oracle.TextString,
    ItemType.BYTE_STRING: oracle.ByteString,
    ItemType.DATE_TIME: oracle.DateTime,
    ItemType.INTERVAL: oracle.Interval,
}


def within_the_oracle(item: Item) -> bool:
    return item.type in ORACLES and (not isinstance(item.value, str) or item.value.isascii())


@given(primitives.filter(within_the_oracle))
def test_pykmip_encodes_the_same_bytes_and_decodes_ours(item):
    tag = oracle_enums.Tags.ATTRIBUTE_VALUE
    ours = Item(Tag.ATTRIBUTE_VALUE, item.type, item.value)
    expected = ORACLES[item.type](item.value, tag)
    stream = BytearrayStream()
    expected.write(stream)
    assert stream.buffer == ttlv.encode(ours)
    read = ORACLES[item.type](tag=tag)
    read.read(BytearrayStream(ttlv.encode(ours)))
    assert read.value == item.value


def head(kind: int, length: int, tag: int = TAG) -> bytes:
    return struct.pack(">II", tag << 8 | kind, length)


def nested(levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        data = head(1, len(data)) + data
    return data


REFUSED = {
    "nothing": (b"", "not exactly one item"),
    "a truncated header": (b"\x42\x00\x20", "truncated item"),
    "a truncated value": (head(8, 16) + bytes(8), "length exceeds"),
    "a length of four gigabytes": (head(8, 0xFFFFFFFF), "length exceeds"),
    "padding that is missing": (head(8, 3) + b"abc", "length exceeds"),
    "padding that is not zero": (head(8, 3) + b"abc\0\0\0\0\1", "padding not zero"),
    "a word's padding that is not zero": (head(5, 4) + b"\0\0\0\1\0\0\0\1", "padding not zero"),
    "a word of eight bytes": (head(2, 8) + bytes(8), "wrong length"),
    "an integer of no bytes": (head(2, 0), "wrong length"),
    "a date of four bytes": (head(9, 4) + bytes(8), "wrong length"),
    "a big integer of no bytes": (head(4, 0), "wrong length"),
    "a big integer of nine bytes": (head(4, 9) + bytes(16), "wrong length"),
    "a structure of five bytes": (head(1, 5) + bytes(8), "wrong length"),
    "a boolean of two": (head(6, 8) + b"\0\0\0\0\0\0\0\2", "boolean"),
    "text that is not UTF-8": (head(7, 2) + b"\xff\xfe\0\0\0\0\0\0", "text not UTF-8"),
    "text that holds a surrogate": (head(7, 3) + b"\xed\xa0\x80\0\0\0\0\0", "text not UTF-8"),
    "type zero": (head(0, 8) + bytes(8), "unknown type"),
    "a type of KMIP 2": (head(11, 8) + bytes(8), "unknown type"),
    "an undefined tag": (head(2, 4, tag=0x410001) + bytes(8), "tag outside"),
    "two items": (2 * (head(2, 4) + bytes(8)), "not exactly one item"),
    "a child longer than its parent": (head(1, 16) + head(8, 16) + bytes(16), "length exceeds"),
    "structures without end": (nested(ttlv.MAX_DEPTH + 1), "too deep"),
    "a hundred thousand levels": (nested(100_000)[:400_000], "length exceeds"),
    "items without end": (head(1, 8 * ttlv.MAX_ITEMS) + head(7, 0) * ttlv.MAX_ITEMS, "too many items"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_bytes_are_rejected(name):
    data, reason = REFUSED[name]
    with pytest.raises(ttlv.TtlvError, match=reason):
        ttlv.decode(data)


def test_encoded_structure_is_written_unchanged():
    inner, beside = structure(Item(TAG, ItemType.INTEGER, 8), structure()), Item(TAG, ItemType.ENUMERATION, 1)
    outer = ttlv.encode(structure(inner, beside))
    assert ttlv.encode(structure(ttlv.pre_encode(inner), beside)) == outer
    assert ttlv.from_encoded(TAG, outer).children() == ()
    assert ttlv.encode(ttlv.decode(nested(ttlv.MAX_DEPTH))) == nested(ttlv.MAX_DEPTH)  # the maximum depth


def test_error_does_not_contain_the_content():
    with pytest.raises(ttlv.TtlvError) as refused:
        ttlv.decode(head(7, 8) + b"secret!\xff")
    assert "secret" not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_repr_of_an_item_contains_neither_value_nor_children():
    item = structure(Item(Tag.KEY_MATERIAL, ItemType.BYTE_STRING, b"material"))
    assert "material" not in repr(item).lower()
    assert repr(item.first(Tag.KEY_MATERIAL)) == "Item(0x420043, BYTE_STRING)"
