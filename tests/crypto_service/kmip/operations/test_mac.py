"""MAC and MAC Verify with an AES key: CMAC, GMAC and HMAC; Hash."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    HashingAlgorithm,
    Operation,
    ResultReason,
    UsageLimitsUnit,
    ValidityIndicator,
)
from crypto_service.kmip.codec.fields import choice, octets, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.operations import invocation_limit
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, attribute, limited

MASK = 0x180  # generate and verify MACs
DATA = b"the data"


def mode(wanted: int, *more: Item, tag: int = Tag.CRYPTOGRAPHIC_PARAMETERS) -> Item:
    return structure(tag, choice(Tag.BLOCK_CIPHER_MODE, wanted), *more)


HASH_WITH_MD5 = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.MD5))
HMAC = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.CRYPTOGRAPHIC_ALGORITHM, CryptographicAlgorithm.HMAC_SHA256))
CMAC_MODE, GMAC_MODE = mode(BlockCipherMode.CMAC), mode(BlockCipherMode.GCM)


async def mac(client: Client, key: str, how: Item, *more: Item):
    return await client.about(Operation.MAC, key, how, octets(Tag.DATA, DATA), *more)


async def verified(client: Client, key: str, how: Item, made: bytes, *more: Item, data: bytes = DATA) -> bool:
    answer = await client.about(
        Operation.MAC_VERIFY, key, how, octets(Tag.DATA, data), octets(Tag.MAC_DATA, made), *more
    )
    return answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID


async def test_cmac_interoperates_and_is_complete(scene: Scene):
    client = scene.client()
    key = await client.activated(mask=MASK)
    made = (await mac(client, key, CMAC_MODE)).value(Tag.MAC_DATA)
    other = CMAC(AES((await client.get(key)).material))
    other.update(DATA)
    assert made == other.finalize()
    assert await verified(client, key, CMAC_MODE, made)
    assert not await verified(client, key, CMAC_MODE, made, data=DATA + b"!")
    for wrong in (made[:-1], made[:8], bytes(16), b""):
        assert not await verified(client, key, CMAC_MODE, wrong)


async def test_aes_key_makes_an_hmac_if_the_client_names_it(scene: Scene):
    client = scene.client()
    key = await client.activated(mask=MASK)
    algorithm = choice(Tag.CRYPTOGRAPHIC_ALGORITHM, CryptographicAlgorithm.HMAC_SHA384)
    how = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, algorithm)
    made = (await mac(client, key, how)).value(Tag.MAC_DATA)
    assert made == hmac.digest((await client.get(key)).material, DATA, hashlib.sha384)
    assert await verified(client, key, how, made)
    assert not await verified(client, key, how, made, data=DATA + b"!")
    stored = await client.activated(attribute("Cryptographic Parameters", structure(VALUE, algorithm)), mask=MASK)
    answer = await client.about(Operation.MAC, stored, octets(Tag.DATA, DATA))
    assert len(answer.value(Tag.MAC_DATA)) == 48


@pytest.mark.parametrize("algorithm", [HashingAlgorithm.SHA_256, HashingAlgorithm.SHA_512])
async def test_hash_is_that_of_the_data(scene: Scene, algorithm: HashingAlgorithm):
    how = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, algorithm))
    answer = await scene.client().ask(Operation.HASH, how, octets(Tag.DATA, DATA))
    name = algorithm.name.replace("_", "").lower()
    assert answer.value(Tag.DATA) == hashlib.new(name, DATA).digest()
    assert scene.journal.entries == []  # no object of a tenant is used


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((octets(Tag.DATA, DATA),), ResultReason.MISSING_DATA),
        ((structure(Tag.CRYPTOGRAPHIC_PARAMETERS), octets(Tag.DATA, DATA)), ResultReason.MISSING_DATA),
        ((HASH_WITH_MD5, octets(Tag.DATA, DATA)), ResultReason.INVALID_FIELD),
        ((HASH_WITH_MD5,), ResultReason.INVALID_FIELD),
    ],
)
async def test_hash_without_a_supported_algorithm_is_rejected(scene: Scene, fields, reason):
    assert (await scene.client().ask(Operation.HASH, *fields)).reason is reason


async def test_gmac_interoperates_with_the_nonce_of_the_server_or_the_client(scene: Scene):
    client = scene.client()
    key = await client.activated(mask=MASK)
    other = AESGCM((await client.get(key)).material)
    answer = await mac(client, key, GMAC_MODE)
    made, nonce = answer.value(Tag.MAC_DATA), answer.value(Tag.IV_COUNTER_NONCE)
    assert (len(nonce), made) == (12, other.encrypt(nonce, b"", DATA))
    given = octets(Tag.IV_COUNTER_NONCE, bytes(12))
    own = await mac(client, key, GMAC_MODE, given)
    assert own.payload.first(Tag.IV_COUNTER_NONCE) is None
    assert own.value(Tag.MAC_DATA) == other.encrypt(bytes(12), b"", DATA)
    with_nonce = octets(Tag.IV_COUNTER_NONCE, nonce)
    assert await verified(client, key, GMAC_MODE, made, with_nonce)
    assert not await verified(client, key, GMAC_MODE, made, given)
    assert not await verified(client, key, GMAC_MODE, made, with_nonce, data=DATA + b"!")
    assert not await verified(client, key, GMAC_MODE, made[:12], with_nonce)
    missing = await client.about(
        Operation.MAC_VERIFY, key, GMAC_MODE, octets(Tag.DATA, DATA), octets(Tag.MAC_DATA, made)
    )
    assert missing.reason is ResultReason.INVALID_MESSAGE


async def test_gmac_is_an_invocation_of_gcm(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(invocation_limit, "SAMPLE_BYTES", 0)
    monkeypatch.setattr(invocation_limit, "MOST_INVOCATIONS", 2)
    client = scene.client()
    key = await client.activated(mask=MASK)
    answers = [(await mac(client, key, GMAC_MODE)).reason for _ in range(3)]
    assert answers == [None, None, ResultReason.PERMISSION_DENIED]
    assert (await mac(client, key, CMAC_MODE)).reason is None


@pytest.mark.parametrize("how", [CMAC_MODE, GMAC_MODE, HMAC], ids=["cmac", "gmac", "hmac"])
@pytest.mark.parametrize(
    "limit",
    [limited(2 * len(DATA), UsageLimitsUnit.BYTE), limited(2, UsageLimitsUnit.OBJECT)],
    ids=["bytes", "objects"],
)
async def test_mac_consumes_the_usage_limits_and_its_verification_does_not(scene: Scene, how: Item, limit: Item):
    client = scene.client()
    key = await client.activated(limit, mask=MASK)
    assert (await mac(client, key, mode(BlockCipherMode.CBC))).reason is ResultReason.INVALID_FIELD
    given = octets(Tag.IV_COUNTER_NONCE, bytes(12))
    answers = [await mac(client, key, how, given) for _ in range(3)]
    assert [answer.reason for answer in answers] == [None, None, ResultReason.PERMISSION_DENIED]
    assert await verified(client, key, how, answers[0].value(Tag.MAC_DATA), given)


async def test_mode_of_a_mac_can_be_an_attribute_of_the_key(scene: Scene):
    client = scene.client()
    how = mode(BlockCipherMode.CMAC, tag=VALUE)
    key = await client.activated(attribute("Cryptographic Parameters", how), mask=MASK)
    made = (await client.about(Operation.MAC, key, octets(Tag.DATA, DATA))).value(Tag.MAC_DATA)
    assert await verified(client, key, CMAC_MODE, made)


@pytest.mark.parametrize(
    "how",
    [
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS),
        mode(BlockCipherMode.CBC_MAC),
        mode(BlockCipherMode.CBC),
        mode(BlockCipherMode.CMAC, choice(Tag.CRYPTOGRAPHIC_ALGORITHM, CryptographicAlgorithm.HMAC_SHA256)),
    ],
)
async def test_other_macs_with_an_aes_key_are_rejected(scene: Scene, how: Item):
    client = scene.client()
    key = await client.activated(mask=MASK)
    assert (await mac(client, key, how)).reason is ResultReason.INVALID_FIELD
