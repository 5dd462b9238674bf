import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.keys.encryption_context import EncryptionContext, Purpose, decode
from openkcm.errors import InvalidName

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CONTEXTS = st.builds(EncryptionContext, TEXT, TEXT, TEXT, st.sampled_from(Purpose), TEXT)
# Few characters, including length bytes, so that texts of neighbouring fields can be split in different ways.
SHORT = st.text("a\x00\x01", max_size=3)
CROWDED = st.builds(EncryptionContext, SHORT, SHORT, SHORT, st.sampled_from(Purpose), SHORT)
PLACE = EncryptionContext("acme-corp-12345", "L2-acme-corp-12345-primary", "orders", Purpose.DATA_KEY, "42")


@given(CONTEXTS | CROWDED)
def test_decode_returns_the_encoded_context_so_no_two_contexts_share_an_encoding(context):
    assert decode(context.encode()) == context


@given(CONTEXTS | CROWDED, st.data())
def test_decode_rejects_every_proper_prefix_so_no_encoding_begins_another(context, data):
    encoded = context.encode()
    with pytest.raises(InvalidName):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.binary(max_size=60))
def test_decode_rejects_bytes_that_are_no_encoding(encoded):
    for changed in (encoded, b"\x02" + PLACE.encode()[1:], PLACE.encode() + b"\0"):
        with pytest.raises(InvalidName):
            decode(changed)


@given(TEXT, st.characters(categories=["Cs"]), TEXT)
def test_encode_rejects_a_lone_surrogate(before, surrogate, after):
    with pytest.raises(InvalidName):
        PLACE._replace(object_id=before + surrogate + after).encode()


def test_format_is_fixed_byte_by_byte():
    assert EncryptionContext("a", "bc", "", Purpose.VERIFY, "ü").encode().hex() == (
        "010000000161000000026263000000000000000676657269667900000002c3bc"
    )
