"""Process Start Date and Protect Stop Date (KMIP 1.4, sections 3.25 and 3.26), for every use of a key."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    DigitalSignatureAlgorithm,
    HashingAlgorithm,
    ObjectType,
    Operation,
    ResultReason,
    UsageLimitsUnit,
    WrappingMethod,
)
from crypto_service.kmip.codec.fields import choice, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.algorithms import Method
from tests.crypto_service.kmip.scene import VALUE, Answered, Client, Scene, a_date, attribute, cbc

DATA = octets(Tag.DATA, b"the data")
ECDSA = structure(
    Tag.CRYPTOGRAPHIC_PARAMETERS,
    choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.ECDSA_WITH_SHA256),
)
NIST_KEY_WRAP = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.NIST_KEY_WRAP))


@dataclass(frozen=True)
class Keys:
    """Keys that may be used for everything, with the same dates, and one without dates that is wrapped."""

    aes: str
    hmac: str
    private: str
    public: str
    other: str


async def create_keys(client: Client, now: int) -> Keys:
    dates = (
        a_date("Activation Date", now),
        a_date("Process Start Date", now + 10),
        a_date("Protect Stop Date", now + 20),
        attribute("Cryptographic Usage Mask", number(VALUE, 0xFFFFF)),
    )

    def algorithm(wanted: CryptographicAlgorithm) -> Item:
        return attribute("Cryptographic Algorithm", choice(VALUE, wanted))

    async def create(wanted: CryptographicAlgorithm) -> str:
        limits = structure(
            VALUE, long(Tag.USAGE_LIMITS_TOTAL, 1000), choice(Tag.USAGE_LIMITS_UNIT, UsageLimitsUnit.OBJECT)
        )
        template = structure(Tag.TEMPLATE_ATTRIBUTE, algorithm(wanted), attribute("Usage Limits", limits), *dates)
        kind = choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY)
        return (await client.ask(Operation.CREATE, kind, template)).object_id

    common = structure(Tag.COMMON_TEMPLATE_ATTRIBUTE, algorithm(CryptographicAlgorithm.ECDSA), *dates)
    pair = await client.ask(Operation.CREATE_KEY_PAIR, common)
    return Keys(
        await create(CryptographicAlgorithm.AES),
        await create(CryptographicAlgorithm.HMAC_SHA256),
        pair.value(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER),
        pair.value(Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER),
        await client.create(),
    )


def encrypt(client: Client, keys: Keys) -> Awaitable[Answered]:
    return client.encrypt(keys.aes, b"the data")


def sign(client: Client, keys: Keys) -> Awaitable[Answered]:
    return client.about(Operation.SIGN, keys.private, ECDSA, DATA)


def mac(client: Client, keys: Keys) -> Awaitable[Answered]:
    return client.about(Operation.MAC, keys.hmac, DATA)


def wrap(client: Client, keys: Keys) -> Awaitable[Answered]:
    specification = structure(
        Tag.KEY_WRAPPING_SPECIFICATION,
        choice(Tag.WRAPPING_METHOD, WrappingMethod.ENCRYPT),
        structure(Tag.ENCRYPTION_KEY_INFORMATION, text(Tag.UNIQUE_IDENTIFIER, keys.aes), NIST_KEY_WRAP),
    )
    return client.about(Operation.GET, keys.other, specification)


def derive(client: Client, keys: Keys) -> Awaitable[Answered]:
    parameters = structure(
        Tag.DERIVATION_PARAMETERS,
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256)),
        octets(Tag.DERIVATION_DATA, b"data"),
    )
    return client.ask(
        Operation.DERIVE_KEY,
        choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA),
        text(Tag.UNIQUE_IDENTIFIER, keys.aes),
        choice(Tag.DERIVATION_METHOD, Method.HMAC),
        parameters,
        structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Length", number(VALUE, 256))),
    )


def allocate(client: Client, keys: Keys) -> Awaitable[Answered]:
    return client.about(Operation.GET_USAGE_ALLOCATION, keys.aes, long(Tag.USAGE_LIMITS_COUNT, 1))


def decrypt(client: Client, keys: Keys) -> Awaitable[Answered]:
    block = octets(Tag.DATA, bytes(16)), octets(Tag.IV_COUNTER_NONCE, bytes(16))
    return client.about(Operation.DECRYPT, keys.aes, cbc(), *block)


def verify_signature(client: Client, keys: Keys) -> Awaitable[Answered]:
    signature = octets(Tag.SIGNATURE_DATA, b"signature")
    return client.about(Operation.SIGNATURE_VERIFY, keys.public, ECDSA, DATA, signature)


def verify_mac(client: Client, keys: Keys) -> Awaitable[Answered]:
    return client.about(Operation.MAC_VERIFY, keys.hmac, DATA, octets(Tag.MAC_DATA, bytes(32)))


Use = Callable[[Client, Keys], Awaitable[Answered]]
PROTECTING = (encrypt, sign, mac, wrap, derive, allocate)
PROCESSING = (decrypt, verify_signature, verify_mac)


@pytest.mark.parametrize(
    ("use", "permitted"),
    [(use, (True, True, False)) for use in PROTECTING] + [(use, (False, True, True)) for use in PROCESSING],
)
async def test_dates_limit_every_use_of_a_key(scene: Scene, use: Use, permitted: tuple[bool, ...]):
    """The table: before the Process Start Date, from this date on, and from the Protect Stop Date on."""
    client = scene.client()
    keys = await create_keys(client, int(scene.clock.now))
    found = []
    for _ in permitted:
        answer = await use(client, keys)
        refused = answer.reason is ResultReason.PERMISSION_DENIED and "date" in answer.message
        assert refused or answer.reason in (None, ResultReason.CRYPTOGRAPHIC_FAILURE), answer.message
        found.append(not refused)
        scene.clock.now += 10
    assert tuple(found) == permitted
