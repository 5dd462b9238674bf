"""Wycheproof through our own seam, and the refusals that are ours."""

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

from crypto import primitives
from crypto.primitives import Hash
from tenancy.errors import CiphertextRefused, InvalidRequest

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


def cbc(vector: Vector) -> None:
    key, iv = vector.raw("key"), vector.raw("iv")
    assert primitives.aes_cbc_decrypt(key, iv, vector.raw("ct")) == vector.raw("msg")
    assert primitives.aes_cbc_encrypt(key, iv, vector.raw("msg")) == vector.raw("ct")


def kw(vector: Vector) -> None:
    assert primitives.aes_kw_unwrap(vector.raw("key"), vector.raw("ct")) == vector.raw("msg")
    assert primitives.aes_kw_wrap(vector.raw("key"), vector.raw("msg")) == vector.raw("ct")


def kwp(vector: Vector) -> None:
    assert primitives.aes_kwp_unwrap(vector.raw("key"), vector.raw("ct")) == vector.raw("msg")
    assert primitives.aes_kwp_wrap(vector.raw("key"), vector.raw("msg")) == vector.raw("ct")


def hkdf(vector: Vector) -> None:
    length = vector.test["size"]
    derived = primitives.hkdf_sha256(vector.raw("ikm"), vector.raw("salt"), vector.raw("info"), length)
    assert derived == vector.raw("okm")


def mac(vector: Vector) -> None:
    primitives.hmac_verify(Hash.SHA_256, vector.raw("key"), vector.raw("msg"), vector.raw("tag"))
    assert primitives.hmac_digest(Hash.SHA_256, vector.raw("key"), vector.raw("msg")) == vector.raw("tag")


def gcm_nonce_we_do_not_take(vector: Vector) -> bool:
    return not 96 <= vector.group["ivSize"] <= 1024


def truncated_mac(vector: Vector) -> bool:
    return bool(vector.group["tagSize"] < 256)


def never(_vector: Vector) -> bool:
    return False


def short_material(vector: Vector) -> bool:
    return "ShortKey" in vector.test["flags"]


@contextmanager
def refused(what: str) -> Iterator[None]:
    try:
        yield
    except (CiphertextRefused, InvalidRequest):
        return
    pytest.fail(f"accepted: {what}")


@pytest.mark.parametrize(
    ("name", "run", "outside", "expected"),
    [
        ("aes_gcm", gcm, gcm_nonce_we_do_not_take, {"accepted": 189, "refused": 87, "outside": 40}),
        ("aes_cbc_pkcs5", cbc, never, {"accepted": 72, "refused": 144}),
        ("aes_wrap", kw, short_material, {"accepted": 36, "refused": 126, "outside": 3}),
        ("aes_kwp", kwp, never, {"accepted": 77, "refused": 177}),
        ("hkdf_sha256", hkdf, never, {"accepted": 83, "refused": 3}),
        ("hmac_sha256", mac, truncated_mac, {"accepted": 33, "refused": 108, "outside": 33}),
    ],
)
def test_wycheproof_accepts_what_is_valid_to_the_byte_and_refuses_the_rest(
    name: str,
    run: Callable[[Vector], None],
    outside: Callable[[Vector], bool],
    expected: dict[str, int],
    record_property: Callable[[str, object], None],
) -> None:
    """`outside` counts what Wycheproof allows and our seam does not: refused all the same."""
    counts: Counter[str] = Counter()
    for vector in vectors(name):
        if vector.test["result"] == "valid" and not outside(vector):
            run(vector)
            counts["accepted"] += 1
        else:
            with refused(f"{name} {vector.number}"):
                run(vector)
            counts["outside" if vector.test["result"] != "invalid" else "refused"] += 1
    record_property("wycheproof", f"{name}: {dict(counts)}")
    assert counts == expected


@pytest.mark.parametrize("size", [0, 1, 15, 17, 31, 33, 64])
def test_no_cipher_takes_a_key_of_another_size(size: int) -> None:
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
    ]
    for use in uses:
        with pytest.raises(InvalidRequest):
            use()


@pytest.mark.parametrize("size", [0, 8, 11, 129])
def test_gcm_refuses_a_nonce_that_is_too_short_or_too_long(size: int) -> None:
    with pytest.raises(InvalidRequest):
        primitives.aes_gcm_encrypt(KEY, bytes(size), b"text", b"")
    with pytest.raises(InvalidRequest):
        primitives.aes_gcm_decrypt(KEY, bytes(size), bytes(32), b"")


@pytest.mark.parametrize("size", range(16))
def test_gcm_refuses_a_text_shorter_than_its_tag(size: int) -> None:
    with pytest.raises(CiphertextRefused):
        primitives.aes_gcm_decrypt(KEY, NONCE, bytes(size), b"")


def test_gcm_refuses_a_shortened_tag() -> None:
    whole = primitives.aes_gcm_encrypt(KEY, NONCE, b"text", b"place")
    for cut in range(1, 17):
        with pytest.raises(CiphertextRefused):
            primitives.aes_gcm_decrypt(KEY, NONCE, whole[:-cut], b"place")


@given(plaintext=st.binary(max_size=80), padded=st.booleans())
def test_block_modes_return_what_was_encrypted(plaintext: bytes, padded: bool) -> None:  # noqa: FBT001 - by name
    if not padded:
        plaintext = plaintext[: len(plaintext) // 16 * 16]
    sealed = primitives.aes_cbc_encrypt(KEY, bytes(16), plaintext, padded=padded)
    assert primitives.aes_cbc_decrypt(KEY, bytes(16), sealed, padded=padded) == plaintext
    sealed = primitives.insecure_ecb_encrypt(KEY, plaintext, padded=padded)
    assert primitives.insecure_ecb_decrypt(KEY, sealed, padded=padded) == plaintext


def test_block_modes_without_padding_take_whole_blocks_only() -> None:
    with pytest.raises(InvalidRequest):
        primitives.aes_cbc_encrypt(KEY, bytes(16), b"seventeen bytes..", padded=False)
    with pytest.raises(CiphertextRefused):
        primitives.aes_cbc_decrypt(KEY, bytes(16), bytes(17), padded=False)
    with pytest.raises(InvalidRequest):
        primitives.aes_cbc_encrypt(KEY, bytes(12), b"")


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [  # RFC 2202 and RFC 4231, test case 6: a key of 80 and of 131 bytes 0xaa
        (Hash.SHA_1, "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
        (Hash.SHA_256, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
        (
            Hash.SHA_384,
            "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
        ),
        (
            Hash.SHA_512,
            (
                "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
                "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598"
            ),
        ),
    ],
)
def test_every_mac_gives_the_value_of_its_rfc(algorithm: Hash, expected: str) -> None:
    key = bytes([0xAA]) * (80 if algorithm is Hash.SHA_1 else 131)
    message = b"Test Using Larger Than Block-Size Key - Hash Key First"
    assert primitives.hmac_digest(algorithm, key, message).hex() == expected


def test_a_mac_is_verified_whole_and_with_a_key_of_at_least_112_bits() -> None:
    tag = primitives.hmac_digest(Hash.SHA_256, KEY, b"message")
    primitives.hmac_verify(Hash.SHA_256, KEY, b"message", tag)
    for wrong in (tag[:-1], tag + b"\0", b"", bytes(32)):
        with pytest.raises(CiphertextRefused):
            primitives.hmac_verify(Hash.SHA_256, KEY, b"message", wrong)
    with pytest.raises(InvalidRequest):
        primitives.hmac_digest(Hash.SHA_256, bytes(13), b"message")


@pytest.mark.parametrize("size", [0, 8, 15, 17, 65_544])
def test_key_wrap_takes_whole_units_of_a_key_only(size: int) -> None:
    with pytest.raises(InvalidRequest):
        primitives.aes_kw_wrap(KEY, bytes(size))


@pytest.mark.parametrize("size", [0, 65_537])
def test_key_wrap_with_padding_is_bounded(size: int) -> None:
    with pytest.raises(InvalidRequest):
        primitives.aes_kwp_wrap(KEY, bytes(size))


def test_unwrapping_is_bounded() -> None:
    for unwrap in (primitives.aes_kw_unwrap, primitives.aes_kwp_unwrap):
        with pytest.raises(CiphertextRefused):
            unwrap(KEY, bytes(1 << 20))
