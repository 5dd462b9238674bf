"""Operations on data in pieces: Init Indicator, Correlation Value and Final Indicator."""

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors.requests import TooManyRequests
from core.errors.services import CiphertextRefused, InvalidRequest
from core.tenants.lifecycle import State
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys import primitives
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    HashingAlgorithm,
    Operation,
    PaddingMethod,
    ResultReason,
    RevocationReasonCode,
    UsageLimitsUnit,
    ValidityIndicator,
)
from crypto_service.kmip.codec.errors import KmipRefused
from crypto_service.kmip.codec.fields import choice, flag, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import streams
from crypto_service.kmip.objects.streams import Stream, Streams
from tests.crypto_service.kmip.key_pairs import EC, RSA, Pair, PrivateKey, a_pair
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import Answered, Client, Scene, cbc, gcm, limited

PIECES = (b"the first piece,", b"", b"a second", b" piece that is longer than one block, ", b"the last one")
DATA = b"".join(PIECES)
BEGINS, ENDS = flag(Tag.INIT_INDICATOR, value=True), flag(Tag.FINAL_INDICATOR, value=True)
NONCE = octets(Tag.IV_COUNTER_NONCE, bytes(range(12)))
MACS = 0x180
HASHED = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256))
HMAC = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.CRYPTOGRAPHIC_ALGORITHM, CryptographicAlgorithm.HMAC_SHA256))
CMAC_MODE = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.CMAC))


def ecb(method: PaddingMethod) -> Item:
    mode = choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.ECB)
    return structure(Tag.CRYPTOGRAPHIC_PARAMETERS, mode, choice(Tag.PADDING_METHOD, method))


def correlation(answer: Answered) -> Item:
    return octets(Tag.CORRELATION_VALUE, answer.value(Tag.CORRELATION_VALUE))


def data_of(answer: Answered) -> bytes:
    found = answer.payload.first(Tag.DATA)
    return b"" if found is None else found.value


async def begin(client: Client, operation: int, key: str, piece: bytes, *parts: Item) -> Answered:
    identified = (text(Tag.UNIQUE_IDENTIFIER, key),) if key else ()
    return await client.ask(operation, *identified, *parts, octets(Tag.DATA, piece), BEGINS)


async def go_on(client: Client, operation: int, former: Answered, piece: bytes, *more: Item) -> Answered:
    return await client.ask(operation, octets(Tag.DATA, piece), correlation(former), *more)


async def in_pieces(
    client: Client,
    operation: int,
    key: str,
    *parts: Item,
    pieces: Sequence[bytes] = PIECES,
    last: tuple[Item, ...] = (),
) -> tuple[bytes, Answered, Answered]:
    """Return the data of all responses, and the first and the last response."""
    answer = first = await begin(client, operation, key, pieces[0], *parts)
    assert answer.reason is None, answer.message
    result = data_of(answer)
    for place, piece in enumerate(pieces[1:], 2):
        at_end = (ENDS, *last) if place == len(pieces) else ()
        answer = await go_on(client, operation, answer, piece, *at_end)
        assert answer.reason is None, answer.message
        result += data_of(answer)
    assert answer.payload.first(Tag.CORRELATION_VALUE) is None
    return result, first, answer


async def test_gcm_in_pieces_is_the_encryption_of_the_whole(scene: Scene):
    client = scene.client()
    key = await client.activated()
    material = (await client.get(key)).material
    additional = octets(Tag.AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA, b"row 7")
    sealed, first, last = await in_pieces(client, Operation.ENCRYPT, key, gcm(), NONCE, additional)
    tag = last.value(Tag.AUTHENTICATED_ENCRYPTION_TAG)
    assert sealed + tag == AESGCM(material).encrypt(NONCE.value, DATA, b"row 7")
    assert first.object_id == last.object_id == key

    sealed, first, last = await in_pieces(client, Operation.ENCRYPT, key, gcm())
    made, tag = first.value(Tag.IV_COUNTER_NONCE), last.value(Tag.AUTHENTICATED_ENCRYPTION_TAG)
    assert AESGCM(material).decrypt(made, sealed + tag, b"") == DATA
    assert last.payload.first(Tag.IV_COUNTER_NONCE) is None


async def test_tag_follows_the_ciphertext_before_version_1_4(scene: Scene):
    client = scene.client(minor=3)
    key = await client.activated()
    sealed, first, last = await in_pieces(client, Operation.ENCRYPT, key, gcm())
    assert last.payload.first(Tag.AUTHENTICATED_ENCRYPTION_TAG) is None
    opened = AESGCM((await client.get(key)).material).decrypt(first.value(Tag.IV_COUNTER_NONCE), sealed, b"")
    assert opened == DATA


async def test_gcm_is_not_decrypted_in_pieces(scene: Scene):
    client = scene.client()
    key = await client.activated()
    refused = await begin(client, Operation.DECRYPT, key, b"ciphertext", gcm(), NONCE)
    assert refused.reason is ResultReason.FEATURE_NOT_SUPPORTED
    assert "only in one piece" in refused.message


@pytest.mark.parametrize("how", [cbc(), ecb(PaddingMethod.PKCS5)], ids=["cbc", "ecb"])
async def test_padded_modes_decrypt_what_they_encrypted_in_other_pieces(scene: Scene, how: Item):
    client = scene.client(major=2, minor=1)
    key = await scene.client().activated()
    sealed, first, _ = await in_pieces(client, Operation.ENCRYPT, key, how)
    made = first.payload.first(Tag.IV_COUNTER_NONCE)
    nonce = () if made is None else (made,)
    whole = await client.about(Operation.DECRYPT, key, how, octets(Tag.DATA, sealed), *nonce)
    assert data_of(whole) == DATA
    halves = sealed[:21], sealed[21:]
    opened, _, _ = await in_pieces(client, Operation.DECRYPT, key, how, *nonce, pieces=halves)
    assert opened == DATA
    for damaged in (halves[1][:-1], b""):
        former = await begin(client, Operation.DECRYPT, key, halves[0], how, *nonce)
        refused = await go_on(client, Operation.DECRYPT, former, damaged, ENDS)
        assert refused.reason is ResultReason.CRYPTOGRAPHIC_FAILURE
        again = await go_on(client, Operation.DECRYPT, former, halves[1], ENDS)
        assert again.reason is ResultReason.INVALID_CORRELATION_VALUE


async def test_without_padding_only_the_sum_of_the_pieces_must_be_whole_blocks(scene: Scene):
    client = scene.client()
    key = await client.activated()
    how = ecb(PaddingMethod.NONE)
    sealed, _, _ = await in_pieces(client, Operation.ENCRYPT, key, how, pieces=(DATA[:7], DATA[7:32]))
    assert data_of(await client.about(Operation.DECRYPT, key, how, octets(Tag.DATA, sealed))) == DATA[:32]
    former = await begin(client, Operation.ENCRYPT, key, DATA[:7], how)
    refused = await go_on(client, Operation.ENCRYPT, former, DATA[7:31], ENDS)
    assert refused.reason is ResultReason.INVALID_FIELD


@pytest.mark.parametrize("kind", ["cmac", "hmac"])
async def test_mac_in_pieces_is_the_mac_of_the_whole(scene: Scene, kind: str):
    client, how = scene.client(), {"cmac": CMAC_MODE, "hmac": HMAC}[kind]
    key = await client.activated(mask=MACS)
    material = (await client.get(key)).material
    _, _, last = await in_pieces(client, Operation.MAC, key, how)
    made = last.value(Tag.MAC_DATA)
    other = CMAC(AES(material))
    other.update(DATA)
    assert made == (other.finalize() if kind == "cmac" else hmac.digest(material, DATA, hashlib.sha256))
    for presented, expected in ((made, True), (made[:-1], False), (made[:-1] + bytes([made[-1] ^ 1]), False)):
        _, _, last = await in_pieces(client, Operation.MAC_VERIFY, key, how, last=(octets(Tag.MAC_DATA, presented),))
        assert (last.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID) == expected


async def test_rsa_keys_encrypt_only_in_one_piece(scene: Scene):
    client, pair = scene.client(), await a_pair(scene, RSA)
    for operation, key in ((Operation.ENCRYPT, pair.public), (Operation.DECRYPT, pair.private)):
        refused = await begin(client, operation, key, b"data", cbc())
        assert refused.reason is ResultReason.FEATURE_NOT_SUPPORTED
        assert "only in one piece" in refused.message


async def test_gmac_needs_the_whole(scene: Scene):
    client = scene.client()
    key = await client.activated(mask=MACS)
    refused = await begin(client, Operation.MAC, key, DATA, gcm(), NONCE)
    assert refused.reason is ResultReason.FEATURE_NOT_SUPPORTED


async def test_hash_in_pieces_is_the_hash_of_the_whole(scene: Scene):
    made, first, _ = await in_pieces(scene.client(), Operation.HASH, "", HASHED)
    assert made == hashlib.sha256(DATA).digest()
    assert first.payload.first(Tag.UNIQUE_IDENTIFIER) is None


def signing(pair: PrivateKey) -> Item:
    if pair is EC:
        return HASHED
    return structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.PADDING_METHOD, PaddingMethod.PSS),
        choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256),
    )


@pytest.mark.parametrize("kind", [RSA, EC], ids=["rsa", "ec"])
async def test_signature_in_pieces_is_the_signature_of_the_whole(scene: Scene, kind: PrivateKey):
    client, pair = scene.client(), await a_pair(scene, kind)
    how = signing(kind)
    _, _, last = await in_pieces(client, Operation.SIGN, pair.private, how)
    made = last.value(Tag.SIGNATURE_DATA)
    if kind is RSA:
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        RSA.public_key().verify(made, DATA, scheme, hashes.SHA256())
    else:
        EC.public_key().verify(made, DATA, ec.ECDSA(hashes.SHA256()))
    for pieces, expected in ((PIECES, True), ((*PIECES, b"!"), False)):
        assert await is_valid(client, pair, how, made, pieces) == expected


async def is_valid(client: Client, pair: Pair, how: Item, made: bytes, pieces: Sequence[bytes]) -> bool:
    signature = octets(Tag.SIGNATURE_DATA, made)
    _, _, last = await in_pieces(client, Operation.SIGNATURE_VERIFY, pair.public, how, pieces=pieces, last=(signature,))
    return last.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID


async def test_versions_before_1_3_have_no_pieces(scene: Scene):
    client = scene.client(minor=2)
    key = await client.activated()
    refused = await begin(client, Operation.ENCRYPT, key, b"data", cbc())
    assert refused.reason is ResultReason.FEATURE_NOT_SUPPORTED


async def test_correlation_value_is_of_one_service_operation_and_use(scene: Scene):
    """An attacker who knows a correlation value gets nothing, and the owner loses nothing."""
    client = scene.client(major=2, minor=1)
    key = await scene.client().activated()
    first = await begin(client, Operation.ENCRYPT, key, b"data", cbc())
    others = (scene.client("billing"), scene.client("orders", scene.other), scene.client(process=scene.two))
    for other in others:
        assert (await go_on(other, Operation.ENCRYPT, first, b"", ENDS)).reason is ResultReason.INVALID_FIELD
    wrong = await go_on(client, Operation.DECRYPT, first, b"", ENDS)
    assert wrong.reason is ResultReason.INVALID_CORRELATION_VALUE
    second = await go_on(client, Operation.ENCRYPT, first, b"more")
    used = await go_on(client, Operation.ENCRYPT, first, b"", ENDS)
    assert used.reason is ResultReason.INVALID_CORRELATION_VALUE
    assert (await go_on(client, Operation.ENCRYPT, second, b"", ENDS)).reason is None
    ended = await go_on(client, Operation.ENCRYPT, second, b"", ENDS)
    assert ended.reason is ResultReason.INVALID_CORRELATION_VALUE


async def test_key_is_checked_before_each_piece(scene: Scene):
    client = scene.client()
    key = await client.activated()
    first = await begin(client, Operation.ENCRYPT, key, b"data", cbc())
    await client.revoke(key, RevocationReasonCode.KEY_COMPROMISE)
    refused = await go_on(client, Operation.ENCRYPT, first, b"", ENDS)
    assert refused.reason is ResultReason.PERMISSION_DENIED
    assert "compromised" in refused.message


async def test_lock_ends_operations_in_pieces(scene: Scene):
    client = scene.client()
    key = await client.activated()
    first = await begin(client, Operation.ENCRYPT, key, b"data", cbc())
    scene.callers.states[scene.tenant] = State.LOCKED
    refused = await go_on(client, Operation.ENCRYPT, first, b"", ENDS)
    assert refused.reason is ResultReason.PERMISSION_DENIED


@pytest.mark.parametrize("operation", [Operation.ENCRYPT, Operation.DECRYPT, Operation.MAC, Operation.SIGN])
async def test_piece_needs_the_service_key_like_a_request(scene: Scene, operation: Operation):
    """A customer who disables the root key also stops operations that began before."""
    client = scene.client()
    if operation == Operation.SIGN:
        key, parameters = (await a_pair(scene, EC)).private, HASHED
    elif operation == Operation.MAC:
        key, parameters = await client.activated(mask=MACS), HMAC
    else:
        key, parameters = await client.activated(), ecb(PaddingMethod.NONE)
    first = await begin(client, operation, key, bytes(16), parameters)
    assert first.reason is None, first.message
    scene.keys.down = True
    whole = await client.about(operation, key, parameters, octets(Tag.DATA, bytes(16)))
    refused = await go_on(client, operation, first, bytes(16))
    assert refused.reason is whole.reason is ResultReason.GENERAL_FAILURE
    assert (refused.item.first(Tag.RESPONSE_PAYLOAD), refused.message) == (None, whole.message)
    scene.keys.down = False
    assert (await go_on(client, operation, first, bytes(16))).reason is ResultReason.INVALID_FIELD


LIMITED = pytest.mark.parametrize(
    ("operation", "how"), [(Operation.ENCRYPT, cbc()), (Operation.MAC, HMAC)], ids=["encrypt", "mac"]
)


@LIMITED
async def test_each_piece_is_audited_and_reduces_a_limit_of_bytes(scene: Scene, operation: Operation, how: Item):
    client = scene.client()
    key = await client.activated(limited(len(DATA) + 2, UsageLimitsUnit.BYTE), mask=12 | MACS)
    scene.journal.entries.clear()
    _, _, last = await in_pieces(client, operation, key, how)
    assert [entry.bytes for entry in scene.journal.entries] == [len(piece) for piece in PIECES]
    former = await begin(client, operation, key, b"12", how)
    assert (await go_on(client, operation, former, b"3", ENDS)).reason is ResultReason.PERMISSION_DENIED
    if operation == Operation.MAC:
        made = octets(Tag.MAC_DATA, last.value(Tag.MAC_DATA))
        _, _, verified = await in_pieces(client, Operation.MAC_VERIFY, key, how, last=(made,))
        assert verified.value(Tag.VALIDITY_INDICATOR) == ValidityIndicator.VALID


@LIMITED
async def test_limit_of_uses_counts_an_operation_in_pieces_once(scene: Scene, operation: Operation, how: Item):
    client = scene.client()
    key = await client.activated(limited(1, UsageLimitsUnit.OBJECT), mask=12 | MACS)
    await in_pieces(client, operation, key, how)
    refused = await begin(client, operation, key, b"data", how)
    assert refused.reason is ResultReason.PERMISSION_DENIED


async def test_batch_may_end_an_operation_and_begin_another(scene: Scene):
    client = scene.client()
    key = await client.activated()
    first = await begin(client, Operation.ENCRYPT, key, b"data", cbc())
    ended, begun = await client.batch(
        batch_item(Operation.ENCRYPT, octets(Tag.DATA, b""), correlation(first), ENDS),
        batch_item(Operation.ENCRYPT, text(Tag.UNIQUE_IDENTIFIER, key), cbc(), octets(Tag.DATA, b"x"), BEGINS),
    )
    assert ended.reason is None
    assert correlation(begun) != correlation(first)


def a_caller(tenant_id: str = "tenant-1-kmip") -> ClientIdentity:
    return ClientIdentity(tenant_id, "orders", "L2-x", "eu-west-1", "1a2b", State.ACTIVE)


def a_stream(tenant_id: str = "tenant-1-kmip") -> Stream:
    return Stream(tenant_id, "orders", Operation.ENCRYPT, "key", None)


async def test_one_tenant_cannot_take_the_memory_of_others():
    held = Streams()
    for _ in range(streams.MOST_OF_TENANT):
        held.put(a_stream())
    with pytest.raises(TooManyRequests):
        held.put(a_stream())
    correlation = held.put(a_stream("tenant-2-kmip"))
    assert held.take(a_caller("tenant-2-kmip"), Operation.ENCRYPT, correlation) == a_stream("tenant-2-kmip")


async def test_stream_ends_after_a_minute_also_without_another_request(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    held = Streams(lambda: now)
    correlation = held.put(a_stream())
    now = 59.9
    held.take(a_caller(), Operation.ENCRYPT, correlation)
    correlation = held.put(a_stream())
    now = 119.9
    with pytest.raises(KmipRefused):
        held.take(a_caller(), Operation.ENCRYPT, correlation)
    assert len(held) == 0

    monkeypatch.setattr(streams, "_IDLE_SECONDS", 0.01)
    held = Streams()
    held.put(a_stream())
    async with asyncio.timeout(5):
        while len(held):  # noqa: ASYNC110 - a timer ends the stream, and has no signal
            await asyncio.sleep(0.01)


@settings(max_examples=200)
@given(
    data=st.binary(max_size=100), cuts=st.lists(st.integers(0, 100), max_size=5), mode=st.sampled_from(["cbc", "ecb"])
)
def test_every_division_gives_the_same_result(data: bytes, cuts: list[int], mode: str):
    key, iv = bytes(range(32)), bytes(16)
    ends = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in pairwise(ends)]
    if mode == "cbc":
        encryptor = primitives.aes_cbc_encryptor(key, iv, padded=True)
        whole = primitives.aes_cbc_encrypt(key, iv, data)
    else:
        encryptor = primitives.insecure_ecb_encryptor(key, padded=True)
        whole = primitives.insecure_ecb_encrypt(key, data, padded=True)
    sealed = b"".join(map(encryptor.update, pieces)) + b"".join(encryptor.finish())
    assert sealed == whole
    decryptor = (
        primitives.aes_cbc_decryptor(key, iv, padded=True)
        if mode == "cbc"
        else primitives.insecure_ecb_decryptor(key, padded=True)
    )
    opened = b"".join(decryptor.update(sealed[at : at + 7]) for at in range(0, len(sealed), 7)) + decryptor.finish()
    assert opened == data


@pytest.mark.parametrize("sealed", [b"", bytes(15), bytes(17)])
def test_incomplete_ciphertext_is_refused(sealed: bytes):
    decryptor = primitives.aes_cbc_decryptor(bytes(32), bytes(16), padded=True)
    decryptor.update(sealed)
    with pytest.raises(CiphertextRefused):
        decryptor.finish()


def test_incomplete_blocks_without_padding_are_refused():
    encryptor = primitives.aes_cbc_encryptor(bytes(32), bytes(16), padded=False)
    encryptor.update(bytes(17))
    with pytest.raises(InvalidRequest):
        encryptor.finish()
