"""Encrypt, Decrypt and MAC with keys that the server does not release."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    Operation,
    QueryFunction,
    ResultReason,
    ValidityIndicator,
)
from crypto_service.kmip.codec.fields import choice, flag, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, attribute, cbc, custom, gcm


def parameters(**given: Item) -> Item:
    return structure(Tag.CRYPTOGRAPHIC_PARAMETERS, *given.values())


async def decrypt(client: Client, object_id: str, how: Item, *parts: Item):
    return await client.about(Operation.DECRYPT, object_id, how, *parts)


@pytest.mark.parametrize(("how", "nonce_size", "more"), [(cbc(), 16, 16), (gcm(), 12, 16)], ids=["cbc", "gcm"])
async def test_before_1_4_client_decrypts_with_the_iv_of_the_server(
    scene: Scene, how: Item, nonce_size: int, more: int
):
    """CBC is the delegated mode of MongoDB; before version 1.4 the tag of GCM follows the ciphertext."""
    client = scene.client(minor=2)
    object_id = await client.activated()
    sealed = await client.encrypt(object_id, bytes(96), parameters=how)
    nonce = sealed.value(Tag.IV_COUNTER_NONCE)
    assert (len(nonce), len(sealed.value(Tag.DATA))) == (nonce_size, 96 + more)
    parts = octets(Tag.DATA, sealed.value(Tag.DATA)), octets(Tag.IV_COUNTER_NONCE, nonce)
    assert (await decrypt(client, object_id, how, *parts)).value(Tag.DATA) == bytes(96)
    assert (await client.encrypt(object_id, bytes(96), parameters=how)).value(Tag.IV_COUNTER_NONCE) != nonce


async def test_gcm_interoperates_with_another_implementation(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    key = (await client.get(object_id)).material
    additional = octets(Tag.AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA, b"row 7")
    sealed = await client.encrypt(object_id, b"the data", additional, parameters=gcm())
    nonce, data = sealed.value(Tag.IV_COUNTER_NONCE), sealed.value(Tag.DATA)
    tag = sealed.value(Tag.AUTHENTICATED_ENCRYPTION_TAG)
    assert (len(nonce), len(data), len(tag)) == (12, 8, 16)
    assert AESGCM(key).decrypt(nonce, data + tag, b"row 7") == b"the data"

    whole = {Tag.DATA: data, Tag.IV_COUNTER_NONCE: nonce, Tag.AUTHENTICATED_ENCRYPTION_TAG: tag}

    async def attempt(additional: Item | None = additional, **_):  # noqa: ANN003, ANN202 - one part replaced
        parts = [octets(name, value) for name, value in whole.items()]
        return await decrypt(client, object_id, gcm(), *parts, *([additional] if additional else []))

    assert (await attempt()).value(Tag.DATA) == b"the data"
    assert (await attempt(None)).reason is ResultReason.CRYPTOGRAPHIC_FAILURE
    other = octets(Tag.AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA, b"row 8")
    assert (await attempt(other)).reason is ResultReason.CRYPTOGRAPHIC_FAILURE
    for name in list(whole):
        kept = whole[name]
        whole[name] = bytes([kept[0] ^ 1]) + kept[1:]
        assert (await attempt()).reason is ResultReason.CRYPTOGRAPHIC_FAILURE
        whole[name] = kept


GCM = choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.GCM)


@pytest.mark.parametrize("minor", [2, 4])
@pytest.mark.parametrize("tag_size", [4, 8, 12, 13, 14, 15])
async def test_gcm_tag_is_shorter_only_if_the_client_requests_it(scene: Scene, minor: int, tag_size: int):
    client = scene.client(minor=minor)
    object_id = await client.activated()
    key = (await client.get(object_id)).material
    short, usual = parameters(mode=GCM, tag=number(Tag.TAG_LENGTH, tag_size)), parameters(mode=GCM)
    sealed = await client.encrypt(object_id, b"the data", parameters=short)
    nonce, data = sealed.value(Tag.IV_COUNTER_NONCE), sealed.value(Tag.DATA)
    tag = sealed.payload.first(Tag.AUTHENTICATED_ENCRYPTION_TAG)
    whole = data + (b"" if tag is None else tag.value)
    assert whole == AESGCM(key).encrypt(nonce, b"the data", b"")[: 8 + tag_size]
    parts = [octets(Tag.DATA, data), octets(Tag.IV_COUNTER_NONCE, nonce), *([] if tag is None else [tag])]
    assert (await decrypt(client, object_id, short, *parts)).value(Tag.DATA) == b"the data"
    assert (await decrypt(client, object_id, usual, *parts)).reason is ResultReason.CRYPTOGRAPHIC_FAILURE


@pytest.mark.parametrize("size", [8, 11, 16, 60, 128])
async def test_gcm_accepts_nonces_of_a_client_of_other_sizes(scene: Scene, size: int):
    client = scene.client()
    object_id = await client.activated()
    key, nonce = (await client.get(object_id)).material, bytes(range(size))
    sealed = await client.encrypt(object_id, b"data", octets(Tag.IV_COUNTER_NONCE, nonce), parameters=gcm())
    tag = sealed.payload.first(Tag.AUTHENTICATED_ENCRYPTION_TAG)
    assert sealed.value(Tag.DATA) + tag.value == AESGCM(key).encrypt(nonce, b"data", b"")
    parts = octets(Tag.DATA, sealed.value(Tag.DATA)), octets(Tag.IV_COUNTER_NONCE, nonce), tag
    assert (await decrypt(client, object_id, gcm(), *parts)).value(Tag.DATA) == b"data"


@pytest.mark.parametrize(
    ("bits", "size"), [(96, 12), (128, 16), (1024, 128), (12, 12), (64, 12), (100, 12), (1032, 12)]
)
async def test_server_nonce_has_the_requested_length_of_96_bits_or_more(scene: Scene, bits: int, size: int):
    client = scene.client()
    how = parameters(mode=GCM, length=number(Tag.IV_LENGTH, bits))
    sealed = await client.encrypt(await client.activated(), b"data", parameters=how)
    assert len(sealed.value(Tag.IV_COUNTER_NONCE)) == size


@pytest.mark.parametrize(("how", "size"), [(cbc(random=False), 16), (parameters(mode=GCM), 12)])
async def test_missing_iv_is_generated_and_returned(scene: Scene, how: Item, size: int):
    client = scene.client()
    object_id = await client.activated()
    iv = octets(Tag.IV_COUNTER_NONCE, b"i" * size)
    for more in ((), (octets(Tag.IV_COUNTER_NONCE, b""),)):
        assert (
            len((await client.encrypt(object_id, b"data", *more, parameters=how)).value(Tag.IV_COUNTER_NONCE)) == size
        )
    sealed = await client.encrypt(object_id, b"data", iv, parameters=how)
    assert sealed.payload.first(Tag.IV_COUNTER_NONCE) is None
    short = await client.encrypt(object_id, b"data", octets(Tag.IV_COUNTER_NONCE, b"short"), parameters=how)
    assert short.reason is ResultReason.INVALID_FIELD
    bare = await decrypt(client, object_id, how, octets(Tag.DATA, sealed.value(Tag.DATA)))
    assert bare.reason is ResultReason.INVALID_MESSAGE


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (parameters(), ResultReason.INVALID_FIELD),
        (parameters(mode=choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.XTS)), ResultReason.INVALID_FIELD),
        (parameters(mode=GCM, tag=number(Tag.TAG_LENGTH, 1)), ResultReason.GENERAL_FAILURE),
        (parameters(mode=GCM, tag=number(Tag.TAG_LENGTH, 5)), ResultReason.GENERAL_FAILURE),
        (parameters(mode=GCM, tag=number(Tag.TAG_LENGTH, 32)), ResultReason.GENERAL_FAILURE),
        (parameters(mode=GCM, padding=choice(Tag.PADDING_METHOD, 2)), ResultReason.INVALID_FIELD),
        (parameters(mode=GCM, name=choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 2)), ResultReason.INVALID_FIELD),
        (parameters(mode=number(Tag.BLOCK_CIPHER_MODE, 1)), ResultReason.INVALID_MESSAGE),
    ],
)
async def test_unsupported_parameters_are_rejected_with_a_reason(scene: Scene, how: Item, reason):
    client = scene.client()
    object_id = await client.activated()
    refused = await client.encrypt(object_id, b"data", parameters=how)
    assert refused.reason is reason
    assert "internal error" not in refused.message


async def test_encrypt_requires_data_and_parameters(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    whole = flag(Tag.INIT_INDICATOR, value=False), flag(Tag.FINAL_INDICATOR, value=False)
    assert (await client.encrypt(object_id, b"data", *whole)).reason is None
    bare = await client.about(Operation.ENCRYPT, object_id, octets(Tag.DATA, b"data"))
    assert bare.reason is ResultReason.INVALID_FIELD
    assert (await client.about(Operation.ENCRYPT, object_id, cbc())).reason is ResultReason.MISSING_DATA


@pytest.mark.parametrize(("mask", "encrypts", "decrypts"), [(0, False, False), (4, True, False), (8, False, True)])
async def test_usage_mask_is_enforced(scene: Scene, mask: int, encrypts: bool, decrypts: bool):  # noqa: FBT001 - as in the table
    client = scene.client()
    object_id = await client.activated(mask=mask)
    assert ((await client.encrypt(object_id, b"data")).reason is None) == encrypts
    answer = await decrypt(
        client, object_id, cbc(), octets(Tag.DATA, bytes(15)), octets(Tag.IV_COUNTER_NONCE, bytes(16))
    )
    assert (answer.reason is ResultReason.CRYPTOGRAPHIC_FAILURE) == decrypts
    assert (answer.reason is ResultReason.PERMISSION_DENIED) == (not decrypts)


async def a_key_of(client: Client, algorithm: int, mask: int) -> str:
    template = structure(
        Tag.TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, algorithm)),
        attribute("Cryptographic Usage Mask", number(VALUE, mask)),
    )
    return (await client.ask(Operation.CREATE, choice(Tag.OBJECT_TYPE, 2), template)).object_id


async def test_key_of_another_algorithm_cannot_encrypt(scene: Scene):
    client = scene.client()
    object_id = await a_key_of(client, CryptographicAlgorithm.DES3, 12)
    await client.about(Operation.ACTIVATE, object_id)
    assert (await client.encrypt(object_id, b"data")).reason is ResultReason.INVALID_FIELD


async def test_mac_requires_an_hmac_key(scene: Scene):
    client = scene.client()
    object_id = await a_key_of(client, CryptographicAlgorithm.HMAC_SHA256, 0x180)
    data = octets(Tag.DATA, b"the data")
    assert (await client.about(Operation.MAC, object_id, data)).reason is ResultReason.PERMISSION_DENIED
    await client.about(Operation.ACTIVATE, object_id)
    made = (await client.about(Operation.MAC, object_id, data)).value(Tag.MAC_DATA)
    assert made == hmac.new((await client.get(object_id)).material, b"the data", hashlib.sha256).digest()
    for presented, validity in [(made, ValidityIndicator.VALID), (made[:-1], ValidityIndicator.INVALID)]:
        answer = await client.about(Operation.MAC_VERIFY, object_id, data, octets(Tag.MAC_DATA, presented))
        assert answer.value(Tag.VALIDITY_INDICATOR) == validity
    aes = await client.activated(mask=0x180)
    assert (await client.about(Operation.MAC, aes, data)).reason is ResultReason.INVALID_FIELD


async def test_secret_is_derived_and_unsupported_requests_are_rejected_with_a_reason(scene: Scene):
    client = scene.client()
    key, archived = await client.activated(mask=0xFFFFF), await client.activated()
    await client.about(Operation.ARCHIVE, archived)
    it, data = text(Tag.UNIQUE_IDENTIFIER, key), octets(Tag.DATA, b"the data")

    def derive(bits: int, rounds: int) -> tuple[int, Item, Item, Item, Item, Item]:
        hashing = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, 6))
        how = hashing, octets(Tag.SALT, b"salt"), number(Tag.ITERATION_COUNT, rounds)
        secret = choice(Tag.OBJECT_TYPE, 7), it, choice(Tag.DERIVATION_METHOD, 1)
        template = structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Length", number(VALUE, bits)))
        return Operation.DERIVE_KEY, *secret, structure(Tag.DERIVATION_PARAMETERS, *how), template

    made = await client.ask(*derive(256, 1000))
    secret = hashlib.pbkdf2_hmac("sha256", (await client.get(key)).material, b"salt", 1000, 32)
    assert (await client.get(made.object_id)).material == secret
    scheme = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, 5))
    signature, denied = octets(Tag.SIGNATURE_DATA, b"s"), ResultReason.PERMISSION_DENIED
    for request, reason in (
        (derive(256, 1), ResultReason.INVALID_FIELD),
        (derive(8, 1000), ResultReason.INVALID_FIELD),
        ((Operation.SIGNATURE_VERIFY, it, scheme, data, signature), ResultReason.INVALID_FIELD),
        ((Operation.SIGNATURE_VERIFY, it, cbc(), data, signature), ResultReason.INVALID_FIELD),
        ((Operation.RECOVER, it), denied),
        (
            (Operation.ADD_ATTRIBUTE, text(Tag.UNIQUE_IDENTIFIER, archived), custom("x-a", "1")),
            ResultReason.PERMISSION_DENIED,
        ),
    ):
        assert (await client.ask(*request)).reason is reason
    checked = await client.about(Operation.CHECK, await client.create(), number(Tag.CRYPTOGRAPHIC_USAGE_MASK, 1))
    assert checked.value(Tag.CRYPTOGRAPHIC_USAGE_MASK) == 12
    capabilities = await client.ask(Operation.QUERY, choice(Tag.QUERY_FUNCTION, QueryFunction.QUERY_CAPABILITIES))
    assert capabilities.payload.first(Tag.CAPABILITY_INFORMATION) is not None
