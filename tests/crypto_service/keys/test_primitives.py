"""Wycheproof's vectors through the functions of this module, and the additional rejections."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.services import CiphertextRefused, InvalidRequest
from crypto_service.keys import primitives
from crypto_service.keys.primitives import Hash

VECTORS = Path(__file__).parent / "wycheproof"
KEY = bytes(range(32))
NONCE = bytes(12)


@dataclass(frozen=True)
class Vector:
    group: dict[str, Any]
    test: dict[str, Any]

    def raw(self, field: str) -> bytes:
        return bytes.fromhex(self.test[field])

    @property
    def number(self) -> str:
        return f"case {self.test['tcId']} ({self.test['comment']})"


def vectors(name: str) -> Iterator[Vector]:
    file = json.loads(gzip.decompress((VECTORS / f"{name}.json.gz").read_bytes()))
    for group in file["testGroups"]:
        for test in group["tests"]:
            yield Vector(group, test)


def gcm(vector: Vector) -> None:
    key, nonce, associated = vector.raw("key"), vector.raw("iv"), vector.raw("aad")
    whole = vector.raw("ct") + vector.raw("tag")
    assert primitives.aes_gcm_decrypt(key, nonce, whole, associated) == vector.raw("msg")
    assert primitives.aes_gcm_encrypt(key, nonce, vector.raw("msg"), associated) == whole


def both(encrypt: Callable[..., bytes], decrypt: Callable[..., bytes], *parameters: str) -> Callable[[Vector], None]:
    """Return a function that encrypts and decrypts with a key and further parameters of the vector."""

    def run(vector: Vector) -> None:
        given = [vector.raw(name) for name in ("key", *parameters)]
        assert decrypt(*given, vector.raw("ct")) == vector.raw("msg")
        assert encrypt(*given, vector.raw("msg")) == vector.raw("ct")

    return run


def hkdf(vector: Vector) -> None:
    length = vector.test["size"]
    derived = primitives.hkdf_sha256(vector.raw("ikm"), vector.raw("salt"), vector.raw("info"), length)
    assert derived == vector.raw("okm")


def mac(vector: Vector) -> None:
    primitives.hmac_verify(Hash.SHA_256, vector.raw("key"), vector.raw("msg"), vector.raw("tag"))
    assert primitives.hmac_digest(Hash.SHA_256, vector.raw("key"), vector.raw("msg")) == vector.raw("tag")


def cmac(vector: Vector) -> None:
    primitives.aes_cmac_verify(vector.raw("key"), vector.raw("msg"), vector.raw("tag"))
    assert primitives.aes_cmac(vector.raw("key"), vector.raw("msg")) == vector.raw("tag")


def gmac(vector: Vector) -> None:
    key, nonce, message = vector.raw("key"), vector.raw("iv"), vector.raw("msg")
    primitives.aes_gmac_verify(key, nonce, message, vector.raw("tag"))
    assert primitives.aes_gmac(key, nonce, message) == vector.raw("tag")


def never(_vector: Vector) -> bool:
    return False


@contextmanager
def refused(what: str) -> Iterator[None]:
    try:
        yield
    except (CiphertextRefused, InvalidRequest):
        return
    pytest.fail(f"accepted: {what}")


cbc = both(primitives.aes_cbc_encrypt, primitives.aes_cbc_decrypt, "iv")
kw = both(primitives.aes_kw_wrap, primitives.aes_kw_unwrap)
kwp = both(primitives.aes_kwp_wrap, primitives.aes_kwp_unwrap)


@pytest.mark.parametrize(
    ("name", "run", "outside", "counts"),
    [
        ("aes_gcm", gcm, lambda one: not 64 <= one.group["ivSize"] <= 1024, (202, 87, 27)),
        ("aes_cbc_pkcs5", cbc, never, (72, 144, 0)),
        ("aes_wrap", kw, lambda one: "ShortKey" in one.test["flags"], (36, 126, 3)),
        ("aes_kwp", kwp, never, (77, 177, 0)),
        ("hkdf_sha256", hkdf, never, (83, 3, 0)),
        ("aes_cmac", cmac, never, (63, 248, 0)),
        ("aes_gmac", gmac, never, (90, 324, 0)),
        ("hmac_sha256", mac, lambda one: one.group["tagSize"] < 256, (33, 108, 33)),
    ],
)
def test_wycheproof_vectors_are_accepted_or_rejected_as_specified(
    name: str,
    run: Callable[[Vector], None],
    outside: Callable[[Vector], bool],
    counts: tuple[int, int, int],
    record_property: Callable[[str, object], None],
):
    """`outside` selects vectors accepted only by Wycheproof; `counts` are accepted, rejected and outside."""
    found: Counter[str] = Counter()
    for vector in vectors(name):
        if vector.test["result"] == "valid" and not outside(vector):
            run(vector)
            found["accepted"] += 1
        else:
            with refused(f"{name} {vector.number}"):
                run(vector)
            found["outside" if vector.test["result"] != "invalid" else "refused"] += 1
    record_property("wycheproof", f"{name}: {dict(found)}")
    assert (found["accepted"], found["refused"], found["outside"]) == counts


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 33, 64])
def test_ciphers_reject_keys_of_another_size(size: int):
    key = bytes(size)
    uses: list[Callable[[], object]] = [
        lambda: primitives.aes_gcm_encrypt(key, NONCE, b"", b""),
        lambda: primitives.aes_gcm_decrypt(key, NONCE, bytes(16), b""),
        lambda: primitives.aes_cbc_encrypt(key, bytes(16), b""),
        lambda: primitives.aes_cbc_decrypt(key, bytes(16), bytes(16)),
        lambda: primitives.insecure_ecb_encrypt(key, bytes(16), padded=False),
        lambda: primitives.insecure_ecb_decrypt(key, bytes(16), padded=False),
        lambda: primitives.aes_kw_wrap(key, bytes(32)),
        lambda: primitives.aes_kw_unwrap(key, bytes(40)),
        lambda: primitives.aes_kwp_wrap(key, bytes(32)),
        lambda: primitives.aes_kwp_unwrap(key, bytes(40)),
        lambda: primitives.aes_cmac(key, b""),
        lambda: primitives.aes_gmac(key, NONCE, b""),
    ]
    for use in uses:
        with pytest.raises(InvalidRequest):
            use()


def test_gcm_rejects_nonces_texts_and_tags_of_wrong_size():
    for size in (0, 7, 129):
        with pytest.raises(InvalidRequest):
            primitives.aes_gcm_encrypt(KEY, bytes(size), b"text", b"")
        with pytest.raises(InvalidRequest):
            primitives.aes_gcm_decrypt(KEY, bytes(size), bytes(32), b"")
    whole = primitives.aes_gcm_encrypt(KEY, NONCE, b"text", b"place")
    for text in (*(bytes(size) for size in range(16)), *(whole[:-cut] for cut in range(1, 17))):
        with pytest.raises(CiphertextRefused):
            primitives.aes_gcm_decrypt(KEY, NONCE, text, b"place")


@pytest.mark.parametrize("size", primitives.GCM_TAGS)
def test_gcm_tag_of_a_requested_size_is_the_begin_of_the_complete_tag(size: int):
    whole = primitives.aes_gcm_encrypt(KEY, NONCE, b"text", b"place")
    short = primitives.aes_gcm_encrypt(KEY, NONCE, b"text", b"place", size)
    assert short == whole[: 4 + size]
    assert primitives.aes_gcm_decrypt(KEY, NONCE, short, b"place", size) == b"text"
    changed = short[:-1] + bytes([short[-1] ^ 1])
    for wrong in (changed, short[:-1], short + b"\0", short[:3], b"", bytes(size)):
        with pytest.raises(CiphertextRefused):
            primitives.aes_gcm_decrypt(KEY, NONCE, wrong, b"place", size)
    with pytest.raises(CiphertextRefused):
        primitives.aes_gcm_decrypt(KEY, NONCE, short, b"other", size)


@pytest.mark.parametrize("size", [-1, 0, 1, 5, 11, 17])
def test_gcm_rejects_other_tag_sizes(size: int):
    with pytest.raises(InvalidRequest):
        primitives.aes_gcm_encrypt(KEY, NONCE, b"text", b"", size)
    with pytest.raises(InvalidRequest):
        primitives.aes_gcm_decrypt(KEY, NONCE, bytes(32), b"", size)


@given(plaintext=st.binary(max_size=80), padded=st.booleans())
def test_block_modes_decrypt_what_they_encrypted(plaintext: bytes, padded: bool):  # noqa: FBT001 - by name
    if not padded:
        plaintext = plaintext[: len(plaintext) // 16 * 16]
    sealed = primitives.aes_cbc_encrypt(KEY, bytes(16), plaintext, padded=padded)
    assert primitives.aes_cbc_decrypt(KEY, bytes(16), sealed, padded=padded) == plaintext
    sealed = primitives.insecure_ecb_encrypt(KEY, plaintext, padded=padded)
    assert primitives.insecure_ecb_decrypt(KEY, sealed, padded=padded) == plaintext


def test_block_modes_without_padding_accept_only_whole_blocks():
    with pytest.raises(InvalidRequest):
        primitives.aes_cbc_encrypt(KEY, bytes(16), b"seventeen bytes..", padded=False)
    with pytest.raises(CiphertextRefused):
        primitives.aes_cbc_decrypt(KEY, bytes(16), bytes(17), padded=False)
    with pytest.raises(InvalidRequest):
        primitives.aes_cbc_encrypt(KEY, bytes(12), b"")


def test_macs_have_the_values_of_their_rfc():
    message = b"Test Using Larger Than Block-Size Key - Hash Key First"
    expected = {  # RFC 2202 and RFC 4231, test case 6: a key of 80 and of 131 bytes 0xaa
        Hash.SHA_1: "aa4ae5e15272d00e95705637ce8a3b55ed402112",
        Hash.SHA_256: "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        Hash.SHA_384: "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f"
        "3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
        Hash.SHA_512: "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
        "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
    }
    for algorithm, value in expected.items():
        key = bytes([0xAA]) * (80 if algorithm is Hash.SHA_1 else 131)
        assert primitives.hmac_digest(algorithm, key, message).hex() == value


def test_macs_of_aes_require_the_complete_mac():
    for tag in (primitives.aes_cmac(KEY, b"message"), primitives.aes_gmac(KEY, NONCE, b"message")):
        for wrong in (tag[:-1], tag[:12], tag + b"\0", b"", bytes(16)):
            with pytest.raises(CiphertextRefused):
                primitives.aes_cmac_verify(KEY, b"message", wrong)
            with pytest.raises(CiphertextRefused):
                primitives.aes_gmac_verify(KEY, NONCE, b"message", wrong)


def test_mac_verification_requires_the_complete_mac_and_a_112_bit_key():
    tag = primitives.hmac_digest(Hash.SHA_256, KEY, b"message")
    primitives.hmac_verify(Hash.SHA_256, KEY, b"message", tag)
    for wrong in (tag[:-1], tag + b"\0", b"", bytes(32)):
        with pytest.raises(CiphertextRefused):
            primitives.hmac_verify(Hash.SHA_256, KEY, b"message", wrong)
    with pytest.raises(InvalidRequest):
        primitives.hmac_digest(Hash.SHA_256, bytes(13), b"message")


def test_key_wrap_accepts_only_supported_sizes():
    for wrap, sizes in ((primitives.aes_kw_wrap, (0, 8, 15, 17, 65_544)), (primitives.aes_kwp_wrap, (0, 65_537))):
        for size in sizes:
            with pytest.raises(InvalidRequest):
                wrap(KEY, bytes(size))
    for unwrap in (primitives.aes_kw_unwrap, primitives.aes_kwp_unwrap):
        with pytest.raises(CiphertextRefused):
            unwrap(KEY, bytes(1 << 20))
