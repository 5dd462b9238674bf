from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenancy.binding import Context, Purpose, decode
from tenancy.errors import InvalidName

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CONTEXTS = st.builds(Context, TEXT, TEXT, TEXT, st.sampled_from(Purpose), TEXT)
# Few letters, so that the same text often ends up cut differently between two neighbouring fields.
SHORT = st.text("a\x00\x01", max_size=3)
CROWDED = st.builds(Context, SHORT, SHORT, SHORT, st.sampled_from(Purpose), SHORT)
PLACE = Context("acme-corp-12345", "L2-acme-corp-12345-primary", "orders", Purpose.DATA_KEY, "42")


@given(CONTEXTS)
def test_an_encoding_can_be_read_back_which_makes_it_injective(context):
    assert decode(context.encode()) == context


@given(st.binary(max_size=60) | CONTEXTS.map(lambda context: context.encode()[:-1]))
def test_other_bytes_are_no_context(encoded):
    for changed in (encoded, b"\x02" + PLACE.encode()[1:], PLACE.encode() + b"\0"):
        with pytest.raises(InvalidName):
            decode(changed)


@given(CROWDED, CROWDED)
def test_two_places_share_an_encoding_only_when_they_are_the_same(one, other):
    assert (one.encode() == other.encode()) == (one == other)


@given(CONTEXTS, CONTEXTS)
def test_no_encoding_is_the_beginning_of_another(one, other):
    assert one == other or not other.encode().startswith(one.encode())


@pytest.mark.parametrize(
    "moved",
    [
        replace(PLACE, tenant_id="beta-corp-67890"),
        replace(PLACE, l2_key="L2-beta-corp-67890-primary"),
        replace(PLACE, service="billing"),
        replace(PLACE, purpose=Purpose.SERVICE_KEY),
        replace(PLACE, object_id="43"),
        replace(PLACE, service="orders4", object_id="2"),
        replace(PLACE, service="", object_id="orders42"),
    ],
)
def test_a_change_of_any_field_changes_the_encoding(moved):
    assert moved.encode() != PLACE.encode()


@given(TEXT, st.characters(categories=["Cs"]), TEXT)
def test_a_lone_surrogate_is_refused_and_never_replaced(before, surrogate, after):
    with pytest.raises(InvalidName):
        replace(PLACE, object_id=before + surrogate + after).encode()


def test_the_format_is_pinned_byte_by_byte():
    assert Context("a", "bc", "", Purpose.VERIFY, "ü").encode().hex() == (
        "010000000161000000026263000000000000000676657269667900000002c3bc"
    )
