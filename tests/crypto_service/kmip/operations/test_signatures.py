"""Sign and Signature Verify: PSS parameters and digested data."""

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from crypto_service.kmip.codec.enums import (
    DigitalSignatureAlgorithm,
    HashingAlgorithm,
    Operation,
    PaddingMethod,
    ResultReason,
    ValidityIndicator,
)
from crypto_service.kmip.codec.fields import choice, number, octets, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.key_pairs import EC, RSA, Pair, a_pair
from tests.crypto_service.kmip.scene import Answered, Client, Scene

DATA = b"the data"
DIGEST = hashlib.sha256(DATA).digest()
SHA1, SHA256, SHA384 = hashes.SHA1(), hashes.SHA256(), hashes.SHA384()  # noqa: S303 - for the mask generator


def pss(salt: int | None = None, mask: int | None = None, *more: Item) -> Item:
    return structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.RSASSA_PSS),
        choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256),
        *([] if salt is None else [number(Tag.SALT_LENGTH, salt)]),
        *([] if mask is None else [choice(Tag.MASK_GENERATOR_HASHING_ALGORITHM, mask)]),
        *more,
    )


def verifies(signature: bytes, mask: hashes.HashAlgorithm, salt: int) -> bool:
    try:
        RSA.public_key().verify(signature, DATA, padding.PSS(padding.MGF1(mask), salt), SHA256)
    except InvalidSignature:
        return False
    return True


async def sign(client: Client, pair: Pair, how: Item, *data: Item) -> Answered:
    return await client.about(Operation.SIGN, pair.private, how, *(data or (octets(Tag.DATA, DATA),)))


async def verify(client: Client, pair: Pair, how: Item, signature: bytes, *data: Item) -> Answered:
    given = data or (octets(Tag.DATA, DATA),)
    return await client.about(
        Operation.SIGNATURE_VERIFY, pair.public, how, *given, octets(Tag.SIGNATURE_DATA, signature)
    )


@pytest.mark.parametrize("salt", [None, 0, 20, 64, 222])
@pytest.mark.parametrize(
    ("mask", "wanted"),
    [(None, SHA256), (HashingAlgorithm.SHA_1, SHA1), (HashingAlgorithm.SHA_384, SHA384)],
    ids=["same", "sha1", "sha384"],
)
async def test_pss_signature_has_the_requested_salt_and_mask(
    scene: Scene, salt: int | None, mask: int | None, wanted: hashes.HashAlgorithm
):
    client, pair, how = scene.client(), await a_pair(scene, RSA), pss(salt, mask)
    made = (await sign(client, pair, how)).value(Tag.SIGNATURE_DATA)
    length = 32 if salt is None else salt
    other = length - 1 if length else 1
    assert verifies(made, wanted, length)
    assert not verifies(made, wanted, other)
    assert (await verify(client, pair, how, made)).value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID
    answer = await verify(client, pair, pss(other, mask), made)
    assert answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.INVALID


@pytest.mark.parametrize("salt", [0, 20, 64])
async def test_pss_verification_without_a_salt_length_accepts_every_salt(scene: Scene, salt: int):
    client, pair = scene.client(), await a_pair(scene, RSA)
    signature = RSA.sign(DATA, padding.PSS(padding.MGF1(SHA256), salt), SHA256)
    assert (await verify(client, pair, pss(), signature)).value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID
    changed = octets(Tag.DATA, DATA + b"!")
    answer = await verify(client, pair, pss(), signature, changed)
    assert answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.INVALID


@pytest.mark.parametrize(
    "how",
    [
        pss(-1),
        pss(223),
        pss(2**31 - 1),
        pss(None, HashingAlgorithm.MD5),
        pss(None, None, choice(Tag.MASK_GENERATOR, 2)),
        pss(None, None, number(Tag.TRAILER_FIELD, 2)),
    ],
)
async def test_unsupported_pss_parameters_are_rejected(scene: Scene, how: Item):
    client, pair = scene.client(), await a_pair(scene, RSA)
    assert (await sign(client, pair, how)).reason is ResultReason.INVALID_FIELD
    assert (await verify(client, pair, how, bytes(256))).reason is ResultReason.INVALID_FIELD


PKCS1 = structure(
    Tag.CRYPTOGRAPHIC_PARAMETERS,
    choice(Tag.PADDING_METHOD, PaddingMethod.PKCS1_V1_5),
    choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256),
)
ECDSA = structure(
    Tag.CRYPTOGRAPHIC_PARAMETERS,
    choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.ECDSA_WITH_SHA256),
)


@pytest.mark.parametrize(("key", "how"), [(RSA, PKCS1), (RSA, pss(20)), (EC, ECDSA)], ids=["pkcs1", "pss", "ecdsa"])
async def test_digest_is_signed_like_its_data(
    scene: Scene, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, how: Item
):
    client, pair = scene.client(), await a_pair(scene, key)
    digested, data = octets(Tag.DIGESTED_DATA, DIGEST), octets(Tag.DATA, DATA)
    signatures = [(await sign(client, pair, how, given)).value(Tag.SIGNATURE_DATA) for given in (digested, data)]
    for signature in signatures:
        for given in (digested, data):
            answer = await verify(client, pair, how, signature, given)
            assert answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID
        other = octets(Tag.DIGESTED_DATA, DIGEST[::-1])
        answer = await verify(client, pair, how, signature, other)
        assert answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.INVALID


def with_sha1(algorithm: int) -> Item:
    return structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, algorithm))


SHA1_PSS = structure(
    Tag.CRYPTOGRAPHIC_PARAMETERS,
    choice(Tag.PADDING_METHOD, PaddingMethod.PSS),
    choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_1),
)


@pytest.mark.parametrize(
    ("key", "how", "made"),
    [
        (RSA, with_sha1(DigitalSignatureAlgorithm.SHA1_WITH_RSA_ENCRYPTION), RSA.sign(DATA, padding.PKCS1v15(), SHA1)),
        (RSA, SHA1_PSS, RSA.sign(DATA, padding.PSS(padding.MGF1(SHA1), 20), SHA1)),
        (EC, with_sha1(DigitalSignatureAlgorithm.ECDSA_WITH_SHA1), EC.sign(DATA, ec.ECDSA(SHA1))),
    ],
    ids=["pkcs1", "pss", "ecdsa"],
)
async def test_sha1_verifies_old_signatures_and_makes_no_others(
    scene: Scene, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, how: Item, made: bytes
):
    client, pair = scene.client(), await a_pair(scene, key)
    for data, expected in ((DATA, ValidityIndicator.VALID), (DATA + b"!", ValidityIndicator.INVALID)):
        answer = await verify(client, pair, how, made, octets(Tag.DATA, data))
        assert answer.value(Tag.VALIDITY_INDICATOR) == expected
    assert (await sign(client, pair, how)).reason is ResultReason.INVALID_FIELD
    digest = octets(Tag.DIGESTED_DATA, hashlib.sha1(DATA).digest())  # noqa: S324 - the attempt that is rejected
    assert (await sign(client, pair, how, digest)).reason is ResultReason.INVALID_FIELD


async def test_digest_of_another_size_or_with_the_data_is_rejected(scene: Scene):
    client, pair = scene.client(), await a_pair(scene, EC)
    short = await sign(client, pair, ECDSA, octets(Tag.DIGESTED_DATA, DIGEST[1:]))
    assert short.reason is ResultReason.INVALID_FIELD
    both = await sign(client, pair, ECDSA, octets(Tag.DIGESTED_DATA, DIGEST), octets(Tag.DATA, DATA))
    assert both.reason is ResultReason.INVALID_MESSAGE


async def test_signature_that_does_not_fit_into_the_key_is_rejected(scene: Scene):
    """A salt of the size of SHA-512 does not fit into 1024 bits beside the hash."""
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - older devices still have such keys
    client, pair = scene.client(), await a_pair(scene, small)
    how = structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.RSASSA_PSS),
        choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_512),
    )
    refused = await sign(client, pair, how)
    assert (refused.reason, "too small" in refused.message) == (ResultReason.INVALID_FIELD, True)
    answer = await verify(client, pair, how, bytes(128))
    assert answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.INVALID
