"""RSA and elliptic curve keys: registered in one format, used, and returned in another."""

from collections.abc import Iterable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from crypto_service.kmip.codec.enums import (
    CryptographicAlgorithm,
    DigitalSignatureAlgorithm,
    KeyFormatType,
    ObjectType,
    Operation,
    ResultReason,
    ValidityIndicator,
)
from crypto_service.kmip.codec.fields import big, choice, number, octets, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.key_formats import private_key_cost
from tests.crypto_service.kmip.key_pairs import EC, RSA, PrivateKey, register
from tests.crypto_service.kmip.scene import VALUE, Answered, Client, Scene, a_date, attribute

F = KeyFormatType
PRIVATE, PUBLIC = ObjectType.PRIVATE_KEY, ObjectType.PUBLIC_KEY
NUMBERS, DATA = RSA.private_numbers(), octets(Tag.DATA, b"the data")
ORDER = (
    Tag.MODULUS,
    Tag.PRIVATE_EXPONENT,
    Tag.PUBLIC_EXPONENT,
    Tag.P,
    Tag.Q,
    Tag.PRIME_EXPONENT_P,
    Tag.PRIME_EXPONENT_Q,
    Tag.CRT_COEFFICIENT,
)
"""The numbers of a transparent RSA private key in the order of KMIP 1.4, section 2.1.7.4."""


def private(key: PrivateKey, form: PrivateFormat) -> bytes:
    return key.private_bytes(Encoding.DER, form, NoEncryption())


def public(key: PrivateKey, form: PublicFormat) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, form)


def numbers_of(key: rsa.RSAPrivateKey) -> dict[Tag, int]:
    own = key.private_numbers()
    values = (own.public_numbers.n, own.d, own.public_numbers.e, own.p, own.q, own.dmp1, own.dmq1, own.iqmp)
    return dict(zip(ORDER, values, strict=True))


def transparent(numbers: dict[Tag, int], tags: Iterable[Tag] = ORDER) -> Item:
    return structure(Tag.KEY_MATERIAL, *(big(tag, numbers[tag]) for tag in tags if tag in numbers))


def fields(content: bytes | tuple[Item, ...]) -> object:
    """Return content in a form that can be compared."""
    return content if isinstance(content, bytes) else [(item.tag, item.value) for item in content]


RSA_PRIVATE: dict[F, bytes | Item] = {
    F.PKCS_1: private(RSA, PrivateFormat.TraditionalOpenSSL),
    F.PKCS_8: private(RSA, PrivateFormat.PKCS8),
    F.TRANSPARENT_RSA_PRIVATE_KEY: transparent(numbers_of(RSA)),
}
RSA_PUBLIC: dict[F, bytes | Item] = {
    F.PKCS_1: public(RSA, PublicFormat.PKCS1),
    F.X_509: public(RSA, PublicFormat.SubjectPublicKeyInfo),
    F.TRANSPARENT_RSA_PUBLIC_KEY: transparent(numbers_of(RSA), (Tag.MODULUS, Tag.PUBLIC_EXPONENT)),
}
EC_PRIVATE: dict[F, bytes | Item] = {
    F.EC_PRIVATE_KEY: private(EC, PrivateFormat.TraditionalOpenSSL),
    F.PKCS_8: private(EC, PrivateFormat.PKCS8),
}
EC_PUBLIC: dict[F, bytes | Item] = {F.X_509: public(EC, PublicFormat.SubjectPublicKeyInfo)}
KEYS = [
    (kind, key, held, form)
    for kind, key, held in (
        (PRIVATE, RSA, RSA_PRIVATE),
        (PUBLIC, RSA, RSA_PUBLIC),
        (PRIVATE, EC, EC_PRIVATE),
        (PUBLIC, EC, EC_PUBLIC),
    )
    for form in held
]
NAMES = [f"{kind.name.lower()} {key.key_size} {form.name.lower()}" for kind, key, _, form in KEYS]


def how(key: PrivateKey) -> Item:
    algorithms = DigitalSignatureAlgorithm
    wanted = algorithms.SHA256_WITH_RSA_ENCRYPTION if key is RSA else algorithms.ECDSA_WITH_SHA256
    return structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, wanted))


async def sign(client: Client, object_id: str, key: PrivateKey = RSA) -> Answered:
    return await client.about(Operation.SIGN, object_id, how(key), DATA)


@pytest.mark.parametrize(("kind", "key", "held", "form"), KEYS, ids=NAMES)
async def test_key_is_returned_in_every_format_of_its_kind(scene: Scene, kind, key, held, form):
    client, registered = scene.client(), await register(scene, kind, held[form], key, form)
    for wanted, expected in held.items():
        got = await client.about(Operation.GET, registered.object_id, choice(Tag.KEY_FORMAT_TYPE, wanted))
        content = expected.value if isinstance(expected, Item) else expected
        assert fields(got.material) == fields(content), wanted.name
    assert fields((await client.get(registered.object_id)).material) == fields(
        held[form].value if isinstance(held[form], Item) else held[form]
    )


@pytest.mark.parametrize(("kind", "key", "held", "form"), KEYS, ids=NAMES)
async def test_key_is_not_returned_in_another_format(scene: Scene, kind, key, held, form):
    client, registered = scene.client(), await register(scene, kind, held[form], key, form)
    for wanted in set(F) - set(held):
        got = await client.about(Operation.GET, registered.object_id, choice(Tag.KEY_FORMAT_TYPE, wanted))
        assert got.reason is ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED, wanted.name


@pytest.mark.parametrize("of", [RSA, EC], ids=["rsa", "ec"])
async def test_every_private_format_signs_what_every_public_format_verifies(scene: Scene, of):
    client = scene.client()
    privates, publics = (RSA_PRIVATE, RSA_PUBLIC) if of is RSA else (EC_PRIVATE, EC_PUBLIC)
    verifiers = [(await register(scene, PUBLIC, held, of, form)).object_id for form, held in publics.items()]
    for form, held in privates.items():
        signer = (await register(scene, PRIVATE, held, of, form)).object_id
        signature = octets(Tag.SIGNATURE_DATA, (await sign(client, signer, of)).value(Tag.SIGNATURE_DATA))
        for verifier in verifiers:
            answer = await client.about(Operation.SIGNATURE_VERIFY, verifier, how(of), DATA, signature)
            assert answer.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID


async def test_created_pair_is_returned_in_pkcs_8_and_x_509(scene: Scene):
    client = scene.client()
    template = structure(
        Tag.COMMON_TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, CryptographicAlgorithm.RSA)),
        attribute("Cryptographic Length", number(VALUE, 2048)),
        attribute("Cryptographic Usage Mask", number(VALUE, 3)),
        a_date("Activation Date", scene.clock.now),
    )
    made = await client.ask(Operation.CREATE_KEY_PAIR, template)
    for tag, form, head in (
        (Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER, F.PKCS_8, b"\x30\x82"),
        (Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER, F.X_509, b"\x30\x82"),
    ):
        got = await client.about(Operation.GET, made.value(tag), choice(Tag.KEY_FORMAT_TYPE, form))
        assert got.material.startswith(head)


@pytest.mark.parametrize(
    "tags",
    [
        (Tag.MODULUS, Tag.PUBLIC_EXPONENT, Tag.P, Tag.Q),
        (Tag.MODULUS, Tag.PRIVATE_EXPONENT, Tag.PUBLIC_EXPONENT, Tag.P, Tag.Q),
    ],
    ids=["no exponent", "no remainders"],
)
async def test_numbers_that_follow_from_the_primes_are_optional(scene: Scene, tags):
    client = scene.client()
    held = transparent(numbers_of(RSA), tags)
    registered = await register(scene, PRIVATE, held, RSA, F.TRANSPARENT_RSA_PRIVATE_KEY)
    signature = (await sign(client, registered.object_id)).value(Tag.SIGNATURE_DATA)
    other = await register(scene, PRIVATE, RSA_PRIVATE[F.PKCS_8], RSA)
    assert signature == (await sign(client, other.object_id)).value(Tag.SIGNATURE_DATA)


TOO_LARGE = 2**8192 + 1


@pytest.mark.parametrize(
    "changed",
    [
        {Tag.P: None},
        {Tag.Q: None},
        {Tag.MODULUS: None},
        {Tag.PUBLIC_EXPONENT: None},
        {Tag.P: -NUMBERS.p, Tag.Q: -NUMBERS.q},
        {Tag.P: 1, Tag.Q: NUMBERS.public_numbers.n},
        {Tag.P: NUMBERS.p + 2},
        {Tag.P: 2**400_000},
        {Tag.MODULUS: TOO_LARGE, Tag.P: TOO_LARGE, Tag.Q: 1},
        {Tag.PUBLIC_EXPONENT: 0},
    ],
    ids=["p", "q", "modulus", "exponent", "negative", "trivial", "other prime", "huge prime", "too large", "zero"],
)
async def test_transparent_key_without_usable_numbers_is_not_registered(scene: Scene, changed):
    numbers = numbers_of(RSA) | changed
    held = transparent({tag: value for tag, value in numbers.items() if value is not None})
    refused = await register(scene, PRIVATE, held, RSA, F.TRANSPARENT_RSA_PRIVATE_KEY)
    assert refused.reason in {ResultReason.INVALID_FIELD, ResultReason.MISSING_DATA, ResultReason.INVALID_MESSAGE}
    assert (await scene.client().ask(Operation.LOCATE)).ids == []


async def test_transparent_key_that_is_no_structure_is_not_registered(scene: Scene):
    for kind, form in ((PRIVATE, F.TRANSPARENT_RSA_PRIVATE_KEY), (PUBLIC, F.TRANSPARENT_RSA_PUBLIC_KEY)):
        assert (await register(scene, kind, b"1234", RSA, form)).reason is ResultReason.INVALID_MESSAGE


def an_integer(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + a_length(len(content)) + content


def a_length(size: int) -> bytes:
    if size < 128:
        return bytes([size])
    return bytes([0x81, size]) if size < 256 else bytes([0x82]) + size.to_bytes(2, "big")


def pkcs1(numbers: dict[Tag, int]) -> bytes:
    order = (Tag.MODULUS, Tag.PUBLIC_EXPONENT, Tag.PRIVATE_EXPONENT, *ORDER[3:])
    body = an_integer(0) + b"".join(an_integer(numbers[tag]) for tag in order)
    return b"\x30" + a_length(len(body)) + body


P, Q = NUMBERS.p, NUMBERS.q


@pytest.mark.parametrize(
    "changed",
    [
        {Tag.PRIME_EXPONENT_P: NUMBERS.dmp1 + (P - 1) * 2**20_000},
        {Tag.PRIME_EXPONENT_Q: NUMBERS.dmq1 + Q - 1},
        {Tag.PRIVATE_EXPONENT: NUMBERS.d + (P - 1) * (Q - 1) * 2**20_000},
        {Tag.PRIVATE_EXPONENT: NUMBERS.d + 2},
        {Tag.CRT_COEFFICIENT: NUMBERS.iqmp + P},
        {Tag.P: P + 2},
        {Tag.MODULUS: NUMBERS.public_numbers.n + 2},
        {Tag.PUBLIC_EXPONENT: 2},
    ],
    ids=["long exponent p", "exponent q", "long exponent", "exponent", "coefficient", "prime", "modulus", "even"],
)
async def test_private_key_with_numbers_of_different_keys_is_not_used(scene: Scene, changed):
    """The loader that checks primes as well would block the event loop for up to a second."""
    assert pkcs1(numbers_of(RSA)) == RSA_PRIVATE[F.PKCS_1]
    held = pkcs1(numbers_of(RSA) | changed)
    registered = await register(scene, PRIVATE, held, RSA, F.PKCS_1)
    assert (await sign(scene.client(), registered.object_id)).reason is ResultReason.INVALID_FIELD


def test_cost_depends_on_the_size_of_the_key_and_not_on_its_format():
    def cost(form: F, content: bytes | Item) -> int:
        held = content if isinstance(content, Item) else octets(Tag.KEY_MATERIAL, content)
        block = structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, form), structure(Tag.KEY_VALUE, held))
        return private_key_cost(structure(Tag.PRIVATE_KEY, block))

    larger = rsa.generate_private_key(65537, 4096)
    for key, expected in ((RSA, 8), (larger, 64)):
        assert cost(F.PKCS_8, private(key, PrivateFormat.PKCS8)) == expected
        assert cost(F.TRANSPARENT_RSA_PRIVATE_KEY, transparent(numbers_of(key))) == expected
        few = transparent(numbers_of(key), (Tag.MODULUS, Tag.PUBLIC_EXPONENT, Tag.P, Tag.Q))
        assert cost(F.TRANSPARENT_RSA_PRIVATE_KEY, few) == expected
