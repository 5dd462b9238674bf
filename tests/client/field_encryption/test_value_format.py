"""Properties: an encrypted value can be decrypted only in its place, and different places have different encodings."""

import hmac
from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.value_format import ColumnKey, DecryptionFailed, NotEncrypted
from tests.client.field_encryption.stand import run_in_child

KEY = ColumnKey(1, bytes(range(32)))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = st.lists(st.integers() | names | st.binary(max_size=16) | st.uuids(), min_size=1, max_size=3)
places = st.tuples(names, names, names, names, keys)


def place(parts: tuple) -> bytes:
    return values.row_place(values.column_place(*parts[:4]), parts[4])


def same(one: tuple, other: tuple) -> bool:
    return one == other and [type(part) for part in one[4]] == [type(part) for part in other[4]]


@given(places, places)
def test_different_places_have_different_encodings(one, other):
    assert (place(one) == place(other)) is same(one, other)


def test_numbers_and_their_texts_are_different_places():
    column = values.column_place("postgresql", "public", "t", "c")
    forms = [1, "1", b"1", UUID(int=1), "01", UUID(int=1).bytes]
    assert len({values.row_place(column, [form]) for form in forms}) == len(forms)


@given(st.binary(max_size=200), places, places, st.none() | st.binary(min_size=16, max_size=16))
def test_value_is_decrypted_only_in_its_place(plain, here, there, equality):
    sealed = values.seal(KEY, place(here), plain)
    assert values.from_text(values.to_text(sealed, equality)) == (sealed, equality)
    assert values.from_bytes(values.to_bytes(sealed, equality)) == (sealed, equality)
    assert values.version_of(sealed) == 1
    assert values.unseal(KEY, place(here), sealed) == plain
    if place(here) != place(there):
        with pytest.raises(DecryptionFailed):
            values.unseal(KEY, place(there), sealed)
    with pytest.raises(DecryptionFailed):
        values.unseal(ColumnKey(1, bytes(32)), place(here), sealed)


@given(st.binary(max_size=40), st.data())
def test_value_with_a_changed_bit_is_rejected(plain, data):
    sealed = bytearray(values.seal(KEY, b"here", plain))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DecryptionFailed):
        values.unseal(KEY, b"here", bytes(sealed))


@given(st.text(max_size=120))
def test_any_other_text_is_rejected(text):
    for candidate in (text, "okcm:c1:" + text, "okcm:c2:" + text):
        try:
            sealed, equality = values.from_text(candidate)
        except (NotEncrypted, DecryptionFailed):
            continue
        assert values.to_text(sealed, equality) == candidate


@given(st.binary(max_size=8), st.data())
def test_only_the_canonical_encoding_of_a_ciphertext_is_accepted(plain, data):
    text = values.to_text(values.seal(KEY, b"here", plain), data.draw(st.none() | st.just(bytes(16))))
    at = data.draw(st.integers(0, len(text) - 1) | st.integers(len(text) - 4, len(text) - 1))
    for changed in (
        text[:at] + data.draw(st.characters()) + text[at + 1 :],
        text[:at] + data.draw(st.sampled_from("=\n -_A")) + text[at:],
        text.rstrip("="),
        text + "=",
        text.replace("/", "_").replace("+", "-"),
    ):
        try:
            read = values.from_text(changed)
        except (NotEncrypted, DecryptionFailed):
            continue
        assert changed == text or read != values.from_text(text)


def test_last_character_with_unused_bits_is_rejected():
    for length in (30, 31):
        text = values.to_text(bytes(length), None)
        body = text.rstrip("=")
        found = []
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
            with suppress(DecryptionFailed):
                found.append(values.from_text(body[:-1] + last + text[len(body) :]))
        assert len(found) == len({sealed for sealed, _ in found}) > 1


@pytest.mark.integration  # a process
def test_child_process_does_not_continue_its_parents_session():
    key = ColumnKey(1, bytes(32))
    parent_sessions = [values.seal(key, b"", b"")[:20] for _ in range(2)]
    assert parent_sessions[0] == parent_sessions[1]
    child_session = run_in_child(lambda: values.seal(key, b"", b"")[:20])
    assert len(child_session) == 20
    assert child_session != parent_sessions[0]
    assert values.seal(key, b"", b"")[:20] == parent_sessions[0]


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.lists(st.binary(max_size=80), min_size=1))
def test_tags_of_a_column_are_its_hmac(material, column, plains):
    key = ColumnKey(1, material)
    for plain in [*plains, *plains]:
        expected = hmac.digest(material, b"openkcm column tag 1\0" + column + plain, "sha256")[:16]
        assert values.tag(key, column, plain) == expected


@given(st.integers() | st.integers(10**28, 10**34), st.booleans())
def test_part_of_a_row_with_an_integer_key_has_its_length_and_type(number, negative):
    part = b"i" + str(-number if negative else number).encode()
    assert values.row_part((-number if negative else number,)) == len(part).to_bytes(4, "big") + part
