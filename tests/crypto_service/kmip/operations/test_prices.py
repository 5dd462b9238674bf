"""Expensive operations: their price, their bounds, and the event loop between the items of a batch."""

import asyncio
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from core.errors.requests import TooManyRequests
from crypto_service.kmip.codec.enums import (
    DigitalSignatureAlgorithm,
    HashingAlgorithm,
    ObjectType,
    Operation,
    QueryFunction,
    ResultReason,
    ValidityIndicator,
)
from crypto_service.kmip.codec.fields import choice, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.algorithms import Method
from crypto_service.server.limits import TenantLimits
from crypto_service.server.turns import Turns
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, a_date, a_name, attribute

RSA = rsa.generate_private_key(65537, 2048)
DATA = b"the data"
SHA256_WITH_RSA = structure(
    Tag.CRYPTOGRAPHIC_PARAMETERS,
    choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.SHA256_WITH_RSA_ENCRYPTION),
)


@pytest.fixture
def charged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The costs that the tenant is charged."""
    costs: list[int] = []
    monkeypatch.setattr(TenantLimits, "charge", lambda _limits, _tenant, cost, _paid: costs.append(cost))
    return costs


async def registered(client: Client, public: rsa.RSAPublicKey) -> str:
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    template = structure(
        Tag.TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Usage Mask", number(VALUE, 2)),  # verify
    )
    block = structure(
        Tag.KEY_BLOCK,
        choice(Tag.KEY_FORMAT_TYPE, 5),  # X.509
        structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, der)),
        choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 4),  # RSA
        number(Tag.CRYPTOGRAPHIC_LENGTH, public.key_size),
    )
    made = await client.ask(
        Operation.REGISTER,
        choice(Tag.OBJECT_TYPE, ObjectType.PUBLIC_KEY),
        template,
        structure(Tag.PUBLIC_KEY, block),
    )
    await client.about(Operation.ACTIVATE, made.object_id)
    return made.object_id


def derivation(key: str, rounds: int, bits: int = 256, method: Method = Method.PBKDF2) -> tuple[int, ...]:
    parameters = structure(
        Tag.DERIVATION_PARAMETERS,
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256)),
        octets(Tag.SALT, b"salt"),
        octets(Tag.DERIVATION_DATA, b"data"),
        number(Tag.ITERATION_COUNT, rounds),
    )
    template = structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Length", number(VALUE, bits)))
    return (
        Operation.DERIVE_KEY,
        choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA),
        text(Tag.UNIQUE_IDENTIFIER, key),
        choice(Tag.DERIVATION_METHOD, method),
        parameters,
        template,
    )


async def test_verification_with_an_exponent_near_the_modulus_is_rejected(scene: Scene):
    """The attack: a public key with which each verification takes 300 times as long."""
    client, numbers = scene.client(), RSA.public_key().public_numbers()
    hostile = await registered(client, rsa.RSAPublicNumbers(numbers.n - 2, numbers.n).public_key())
    usual = await registered(client, RSA.public_key())
    signature = octets(Tag.SIGNATURE_DATA, RSA.sign(DATA, padding.PKCS1v15(), hashes.SHA256()))
    request = SHA256_WITH_RSA, octets(Tag.DATA, DATA), signature
    refused = await client.about(Operation.SIGNATURE_VERIFY, hostile, *request)
    assert (refused.reason, "exponent" in refused.message) == (ResultReason.INVALID_FIELD, True)
    verified = await client.about(Operation.SIGNATURE_VERIFY, usual, *request)
    assert verified.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID


async def test_derivation_is_charged_by_its_iterations_and_bounded_over_all_blocks(scene: Scene, charged: list[int]):
    client = scene.client()
    key = await client.activated(mask=0x200)
    for request in (
        derivation(key, 20_000),
        derivation(key, 20_000, bits=1024),
        derivation(key, 1, method=Method.HMAC),
    ):
        assert (await client.ask(*request)).reason is None
    assert charged == [201, 801, 1]
    for rounds, bits in ((10_000_001, 256), (2_500_001, 1024), (999, 256)):
        refused = await client.ask(*derivation(key, rounds, bits))
        assert (refused.reason, "iteration count" in refused.message) == (ResultReason.INVALID_FIELD, True)
    assert len(charged) == 3


async def test_key_pairs_and_signatures_are_charged_by_their_size(scene: Scene, charged: list[int]):
    client = scene.client()
    for bits in (1024, 2048):
        template = structure(
            Tag.COMMON_TEMPLATE_ATTRIBUTE,
            attribute("Cryptographic Algorithm", choice(VALUE, 4)),
            attribute("Cryptographic Length", number(VALUE, bits)),
            attribute("Cryptographic Usage Mask", number(VALUE, 3)),
        )
        made = await client.ask(Operation.CREATE_KEY_PAIR, template)
        private = made.value(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER)
        await client.about(Operation.ACTIVATE, private)
        signed = await client.about(Operation.SIGN, private, SHA256_WITH_RSA, octets(Tag.DATA, DATA))
        assert signed.reason is None
    assert charged == [100, 4, 1600, 8]


async def test_refused_charge_refuses_the_item(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    def refuse(_limits: TenantLimits, _tenant: str, _cost: int, _paid: int) -> None:
        raise TooManyRequests

    client = scene.client()
    key = await client.activated(mask=0x200)
    monkeypatch.setattr(TenantLimits, "charge", refuse)
    answer = await client.ask(*derivation(key, 1000))
    assert (answer.reason, answer.message) == (ResultReason.GENERAL_FAILURE, TooManyRequests().message)


async def test_refused_signature_consumes_no_usage(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    def refuse(_limits: TenantLimits, _tenant: str, _cost: int, _paid: int) -> None:
        raise TooManyRequests

    async def consume(*_: object) -> None:
        pytest.fail("the usage limit was reduced")

    client = scene.client()
    template = structure(
        Tag.COMMON_TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, 6)),  # ECDSA
        attribute("Cryptographic Usage Mask", number(VALUE, 1)),
    )
    private = (await client.ask(Operation.CREATE_KEY_PAIR, template)).value(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER)
    await client.about(Operation.ACTIVATE, private)
    monkeypatch.setattr(TenantLimits, "charge", refuse)
    monkeypatch.setattr("crypto_service.kmip.operations.signatures.consume_usage", consume)
    scheme = structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.ECDSA_WITH_SHA256),
    )
    answer = await client.about(Operation.SIGN, private, scheme, octets(Tag.DATA, DATA))
    assert answer.message == TooManyRequests().message


async def test_other_requests_get_a_turn_when_the_items_of_a_batch_have_used_their_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Turns, "has_time", lambda *_: False)
    client, given = scene.client(), 0

    async def others() -> None:
        nonlocal given
        while True:
            given += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    query: Item = batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, QueryFunction.QUERY_OPERATIONS))
    await asyncio.sleep(0)
    before = given
    waiting = asyncio.create_task(client.batch(*[query] * 64))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    monkeypatch.undo()
    assert len(await waiting) == 64
    beside.cancel()
    assert given - before >= 3


async def test_locate_is_charged_for_each_object_whose_attributes_it_decodes(scene: Scene, charged: list[int]):
    client = scene.client()
    for number_of_object in range(5):
        await client.create(a_name(f"key-{number_of_object}"))
    await client.ask(Operation.LOCATE, attribute("Cryptographic Length", number(VALUE, 256)))
    assert charged == [10]
    dates = [a_date("Initial Date", seconds) for seconds in (0, 2**31)]
    assert len((await client.ask(Operation.LOCATE, *dates)).ids) == 5
    assert charged == [10, 10, 5 * 2]
    await client.ask(Operation.LOCATE, a_name("key-1"))
    assert charged == [10, 10, 5 * 2]


@pytest.mark.parametrize("rate", [5, 50, 500])
async def test_largest_batch_is_processed_at_a_low_rate_with_an_expensive_item(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, rate: int
):
    client = scene.client()
    key = await client.activated(mask=0x200)
    limits = TenantLimits(rate, 10, lambda: 100.0)
    monkeypatch.setattr(client.process.parts.limits, "enter", limits.enter)
    monkeypatch.setattr(client.process.parts.limits, "charge", limits.charge)
    monkeypatch.setattr(client.process.parts.limits, "leave", limits.leave)
    query: Item = batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, QueryFunction.QUERY_OPERATIONS))
    derive = batch_item(*derivation(key, 1000))
    answers = await client.batch(derive, *[query] * 127)
    assert [answer.reason for answer in answers] == [None] * 128
    assert {answer.reason for answer in await client.batch(*[query] * 128)} == (
        {ResultReason.GENERAL_FAILURE} if rate < 500 else {None}
    )
