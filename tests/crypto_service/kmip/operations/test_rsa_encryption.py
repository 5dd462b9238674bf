"""Encrypt and Decrypt with RSA keys: OAEP and PKCS #1 v1.5, and what an attacker learns from Decrypt."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from crypto_service.kmip.codec.enums import HashingAlgorithm, Operation, PaddingMethod, ResultReason
from crypto_service.kmip.codec.fields import choice, number, octets, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.server.limits import TenantLimits
from tests.crypto_service.kmip.key_pairs import EC, RSA, Pair, a_pair
from tests.crypto_service.kmip.scene import Answered, Client, Scene, gcm

DATA = b"the data"
SHA1, SHA256, SHA512 = hashes.SHA1(), hashes.SHA256(), hashes.SHA512()  # noqa: S303 - OAEP of older clients
PKCS1 = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.PADDING_METHOD, PaddingMethod.PKCS1_V1_5))


def oaep(hashing: int | None = HashingAlgorithm.SHA_256, mask: int | None = None, label: bytes | None = None) -> Item:
    return structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.PADDING_METHOD, PaddingMethod.OAEP),
        *([] if hashing is None else [choice(Tag.HASHING_ALGORITHM, hashing)]),
        *([] if mask is None else [choice(Tag.MASK_GENERATOR_HASHING_ALGORITHM, mask)]),
        *([] if label is None else [octets(Tag.P_SOURCE, label)]),
    )


def oaep_padding(
    hashing: hashes.HashAlgorithm, mask: hashes.HashAlgorithm, label: bytes | None = None
) -> padding.AsymmetricPadding:
    return padding.OAEP(padding.MGF1(mask), hashing, label)


async def encrypt(client: Client, pair: Pair, how: Item, data: bytes = DATA) -> Answered:
    return await client.encrypt(pair.public, data, parameters=how)


async def decrypt(client: Client, pair: Pair, how: Item, data: bytes) -> Answered:
    return await client.about(Operation.DECRYPT, pair.private, how, octets(Tag.DATA, data))


_H = HashingAlgorithm


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        (PKCS1, padding.PKCS1v15()),
        (oaep(), oaep_padding(SHA256, SHA256)),
        (oaep(_H.SHA_512, _H.SHA_256), oaep_padding(SHA512, SHA256)),
        (oaep(_H.SHA_256, _H.SHA_1, b"label"), oaep_padding(SHA256, SHA1, b"label")),
        (oaep(_H.SHA_1), oaep_padding(SHA1, SHA1)),
    ],
    ids=["pkcs1", "oaep", "other mask", "label", "sha1"],
)
async def test_rsa_encryption_interoperates(scene: Scene, how: Item, wanted: padding.AsymmetricPadding):
    client, pair = scene.client(), await a_pair(scene, RSA)
    sealed = (await encrypt(client, pair, how)).value(Tag.DATA)
    assert RSA.decrypt(sealed, wanted) == DATA
    assert (await decrypt(client, pair, how, RSA.public_key().encrypt(DATA, wanted))).value(Tag.DATA) == DATA


async def test_every_oaep_failure_has_the_same_error(scene: Scene):
    client, pair = scene.client(), await a_pair(scene, RSA)
    sealed = RSA.public_key().encrypt(DATA, oaep_padding(SHA256, SHA256, b"label"))
    pkcs1 = RSA.public_key().encrypt(DATA, padding.PKCS1v15())
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    how = oaep(label=b"label")
    answers = [await decrypt(client, pair, how, data) for data in (flipped, pkcs1, bytes(256), b"\xff" * 256, b"")]
    others = oaep(label=b"other"), oaep(_H.SHA_384, label=b"label"), oaep(mask=_H.SHA_1, label=b"label")
    answers += [await decrypt(client, pair, other, sealed) for other in others]
    assert {answer.reason for answer in answers} == {ResultReason.CRYPTOGRAPHIC_FAILURE}
    assert len({answer.message for answer in answers}) == 1


async def test_pkcs1_padding_failure_is_no_error(scene: Scene):
    """Implicit rejection: each ciphertext has a plaintext, always the same, so Decrypt is no padding oracle."""
    client, pair = scene.client(), await a_pair(scene, RSA)
    sealed = RSA.public_key().encrypt(DATA, padding.PKCS1v15())
    for changed in range(1, 17):
        forged = sealed[:-1] + bytes([sealed[-1] ^ changed])
        found = {(await decrypt(client, pair, PKCS1, forged)).value(Tag.DATA) for _ in range(2)}
        assert len(found) == 1
        assert found != {DATA}
    outside = await decrypt(client, pair, PKCS1, b"\xff" * 256)
    short = await decrypt(client, pair, PKCS1, sealed[1:])
    assert outside.reason is short.reason is ResultReason.CRYPTOGRAPHIC_FAILURE
    assert outside.message == short.message


async def test_unsupported_rsa_encryptions_are_rejected(scene: Scene):
    client, pair = scene.client(), await a_pair(scene, RSA)
    curve = await a_pair(scene, EC)
    reversed_pair = Pair(pair.public, pair.private)
    no_padding = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.PADDING_METHOD, PaddingMethod.NONE))
    other_key = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, *PKCS1.children(), choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 3))
    generator = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, *oaep().children(), choice(Tag.MASK_GENERATOR, 2))
    for how in (no_padding, other_key, generator, gcm(), oaep(None), oaep(_H.MD5), oaep(mask=_H.MD5)):
        for answer in (await encrypt(client, pair, how), await decrypt(client, pair, how, bytes(256))):
            assert answer.reason is ResultReason.INVALID_FIELD
    for wrong in (
        await encrypt(client, reversed_pair, PKCS1),
        await decrypt(client, reversed_pair, PKCS1, bytes(256)),
        await encrypt(client, curve, PKCS1),
        await encrypt(client, pair, PKCS1, bytes(246)),
        await encrypt(client, pair, oaep(), bytes(191)),
    ):
        assert wrong.reason is ResultReason.INVALID_FIELD
    wrong_type = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, *oaep().children(), number(Tag.P_SOURCE, 1))
    assert (await encrypt(client, pair, wrong_type)).reason is ResultReason.INVALID_MESSAGE


async def test_rsa_encryption_is_charged(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    client, pair = scene.client(), await a_pair(scene, RSA)
    costs: list[int] = []
    monkeypatch.setattr(TenantLimits, "charge", lambda _limits, _tenant, cost, _paid: costs.append(cost))
    sealed = (await encrypt(client, pair, oaep())).value(Tag.DATA)
    await decrypt(client, pair, oaep(), sealed)
    assert costs == [8, 8]
