import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.errors.services import CiphertextRefused, InvalidRequest
from core.keys.encryption_context import EncryptionContext, Purpose
from crypto_service.interfaces import ServiceKey
from crypto_service.keys import ciphertext
from openkcm.errors import InvalidName

KEY = ServiceKey(7, bytes(range(32)))
PLACE = EncryptionContext("acme-corp-12345", "L2-acme-corp-12345-primary", "orders", Purpose.DATA, "customer/1")

FIRST_VERSION = "okcm:v1:AQAAAAdaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWrrgPUZZzZW3bVaY-b03vzfQo4ZdS0sB2SrCvTy5IQ"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
purposes = st.sampled_from([Purpose.DATA, Purpose.DATA_KEY, Purpose.MANAGED_OBJECT])
places = st.builds(EncryptionContext, texts, texts, texts, purposes, texts)
keys = st.builds(ServiceKey, st.integers(1, 2**32 - 1), st.binary(min_size=32, max_size=32))


@given(key=keys, place=places, plaintext=st.binary(max_size=200))
def test_ciphertext_decrypts_in_its_context(key: ServiceKey, place: EncryptionContext, plaintext: bytes):
    sealed = ciphertext.seal(key, place, plaintext)
    text = ciphertext.to_text(sealed)
    assert ciphertext.from_text(text) == sealed
    assert ciphertext.header(sealed) == ciphertext.Header(place.purpose, key.version)
    assert ciphertext.unseal(key, place, sealed) == plaintext


@given(one=places, other=places)
@example(one=PLACE, other=PLACE._replace(tenant_id="beta-corp-67890"))
@example(one=PLACE, other=PLACE._replace(service="billing"))
@example(one=PLACE, other=PLACE._replace(object_id="customer/2"))
@example(one=PLACE, other=PLACE._replace(object_id=""))
@example(one=PLACE, other=PLACE._replace(purpose=Purpose.DATA_KEY))
@example(one=PLACE, other=PLACE._replace(l2_key="L2-beta-corp-67890-primary"))
@example(one=PLACE, other=PLACE._replace(service="orderscustomer/1", object_id=""))
def test_ciphertext_is_rejected_in_any_other_context(one: EncryptionContext, other: EncryptionContext):
    sealed = ciphertext.seal(KEY, one, b"secret")
    if one == other:
        assert ciphertext.unseal(KEY, other, sealed) == b"secret"
        return
    with pytest.raises(CiphertextRefused):
        ciphertext.unseal(KEY, other, sealed)


def test_ciphertext_with_altered_purpose_is_rejected():
    sealed = ciphertext.seal(KEY, PLACE, b"secret")
    renamed = bytes([2]) + sealed[1:]
    assert ciphertext.header(renamed).purpose is Purpose.DATA_KEY
    for place in (PLACE, PLACE._replace(purpose=Purpose.DATA_KEY)):
        with pytest.raises(CiphertextRefused):
            ciphertext.unseal(KEY, place, renamed)


@given(other=keys)
def test_ciphertext_is_rejected_with_another_version_or_key(other: ServiceKey):
    sealed = ciphertext.seal(KEY, PLACE, b"secret")
    renumbered = sealed[:1] + other.version.to_bytes(4, "big") + sealed[5:]
    of_other_version = ServiceKey(other.version, KEY.material)
    for key in (other, ServiceKey(KEY.version, other.material), of_other_version):
        for text in (sealed, renumbered):
            if (key, text) != (KEY, sealed):
                with pytest.raises(CiphertextRefused):
                    ciphertext.unseal(key, PLACE, text)


def test_every_flipped_bit_is_rejected():
    sealed = ciphertext.seal(KEY, PLACE, b"secret")
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CiphertextRefused):
            ciphertext.unseal(KEY, PLACE, bytes(flipped))


@pytest.mark.parametrize("size", range(6))  # every remainder of base64, whose last character has unused bits
def test_every_changed_character_is_rejected(size: int):
    text = ciphertext.to_text(ciphertext.seal(KEY, PLACE, bytes(size)))
    for place, character in enumerate(text):
        for other in {"A", "B", "Q", "_", "-", "+", "=", " ", "\n", "é", chr(ord(character) ^ 1), chr(0xD800)}:
            if other != character:
                with pytest.raises(CiphertextRefused):
                    ciphertext.unseal(KEY, PLACE, ciphertext.from_text(text[:place] + other + text[place + 1 :]))


@given(cut=st.integers(1, 100))
def test_truncated_or_extended_ciphertext_is_rejected(cut: int):
    sealed = ciphertext.seal(KEY, PLACE, b"a text of some length, so that there is something to cut")
    for altered in (sealed[:-cut], sealed[cut:], sealed + bytes(cut)):
        with pytest.raises(CiphertextRefused):
            ciphertext.unseal(KEY, PLACE, altered)


@given(noise=st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
@example(noise="okcm:v1:")
@example(noise="okcm:v1:A")
@example(noise="okcm:v1:" + "A" * 400)
@example(noise="okcm:v2:" + "A" * 400)
@example(noise="OKCM:V1:" + "A" * 400)
def test_arbitrary_text_or_bytes_are_rejected(noise: str):
    for text in (noise, ciphertext.PREFIX + noise):
        with pytest.raises(CiphertextRefused):
            ciphertext.unseal(KEY, PLACE, ciphertext.from_text(text))
    with pytest.raises(CiphertextRefused):
        ciphertext.unseal(KEY, PLACE, noise.encode("utf-8", "surrogatepass"))


@given(raw=st.binary(min_size=53, max_size=120))
def test_each_ciphertext_has_one_encoding(raw: bytes):
    text = ciphertext.to_text(raw)
    for other in (text + "=", text + "==", text + "A", text + "\n", text.replace(":v1:", ":v1: "), text.upper()):
        if other != text:
            try:
                assert ciphertext.from_text(other) != raw
            except CiphertextRefused:
                continue


def test_largest_plaintext_is_encrypted_and_anything_larger_rejected_before_decoding():
    largest = bytes(ciphertext.LARGEST)
    text = ciphertext.to_text(ciphertext.seal(KEY, PLACE, largest))
    assert ciphertext.unseal(KEY, PLACE, ciphertext.from_text(text)) == largest
    with pytest.raises(InvalidRequest):
        ciphertext.seal(KEY, PLACE, bytes(ciphertext.LARGEST + 1))
    with pytest.raises(CiphertextRefused):
        ciphertext.from_text(ciphertext.PREFIX + "A" * (ciphertext.LARGEST * 2))
    with pytest.raises(CiphertextRefused):
        ciphertext.header(bytes([1, 0, 0, 0, 1]) + bytes(ciphertext.LARGEST + 100))


def test_context_that_is_not_utf8_is_rejected():
    nowhere = PLACE._replace(object_id="\ud800")
    with pytest.raises(InvalidName):
        ciphertext.seal(KEY, nowhere, b"secret")
    with pytest.raises(InvalidName):
        ciphertext.unseal(KEY, nowhere, ciphertext.seal(KEY, PLACE, b"secret"))


def test_equal_messages_share_neither_salt_nor_key_stream():
    one, other = (ciphertext.seal(KEY, PLACE, bytes(64)) for _ in range(2))
    assert one[:5] == other[:5]
    assert one[5:37] != other[5:37]
    assert one[37:] != other[37:]


def test_ciphertext_of_the_first_format_decrypts():
    """The constant was computed from HMAC and AES-GCM alone: a failure breaks the decryption of customers' data."""
    text = FIRST_VERSION
    assert ciphertext.to_text(ciphertext.seal(KEY, PLACE, b"kept for years", lambda size: bytes([0x5A]) * size)) == text
    assert ciphertext.unseal(KEY, PLACE, ciphertext.from_text(text)) == b"kept for years"
    assert base64.urlsafe_b64decode(text.removeprefix("okcm:v1:") + "==")[:5] == b"\x01\x00\x00\x00\x07"
