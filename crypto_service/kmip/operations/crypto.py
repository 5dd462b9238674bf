"""Encrypt and Decrypt with keys that are not released (KMIP 1.4, sections 4.29 and 4.30).

Encrypt and Decrypt use RSA, or AES in GCM, CBC and, only if requested, ECB. The key binds a ciphertext to its service:
every key belongs to one service of one tenant. Nothing is therefore added to the client's additional data, and data
that another implementation encrypted with a registered key can be decrypted here.
"""

import os
from dataclasses import dataclass

from crypto_service.keys import primitives
from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    ObjectType,
    Operation,
    PaddingMethod,
    ResultReason,
)
from crypto_service.kmip.codec.errors import KmipRefused, invalid, malformed, unsupported
from crypto_service.kmip.codec.fields import (
    octets,
    read_choice,
    read_number,
    read_octets,
    read_structure,
    required,
)
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import asymmetric
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import key_material as material
from crypto_service.kmip.objects.asymmetric import PUBLIC_KEY_COST, EncryptionScheme
from crypto_service.kmip.objects.key_formats import private_key_cost
from crypto_service.kmip.objects.managed_object import ManagedObject
from crypto_service.kmip.operations.invocation_limit import count_gcm_invocation
from crypto_service.kmip.operations.streaming import is_piece, process_piece
from crypto_service.kmip.operations.usage_limits import PiecesUsage, consume_usage

_TAG_IN_FIELD = 4
"""Since 1.4 a tag has a separate field; in older versions it follows the ciphertext."""
_RANDOM_NONCE_BITS = range(8 * primitives.GCM_NONCE, 8 * primitives.GCM_NONCES.stop, 8)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """`nonce_size` is that of a nonce from the server."""

    mode: int
    padded: bool
    tag_size: int
    nonce_size: int


class _Encryption:
    """An encryption with AES in pieces."""

    def __init__(self, cipher: primitives.Encryptor, usage: PiecesUsage) -> None:
        self._cipher, self._usage = cipher, usage

    async def update(self, batch: Batch, data: bytes) -> bytes:
        await self._usage.consume(batch, len(data))
        return self._cipher.update(data)

    async def finish(self, batch: Batch, _payload: Item) -> tuple[bytes, Payload]:
        rest, tag = self._cipher.finish()
        if tag and batch.version >= _TAG_IN_FIELD:
            return rest, (octets(Tag.AUTHENTICATED_ENCRYPTION_TAG, tag),)
        return rest + tag, ()


class _Decryption:
    """A decryption with AES in pieces."""

    def __init__(self, cipher: primitives.Decryptor) -> None:
        self._cipher = cipher

    async def update(self, _batch: Batch, data: bytes) -> bytes:
        return self._cipher.update(data)

    async def finish(self, _batch: Batch, _payload: Item) -> tuple[bytes, Payload]:
        return self._cipher.finish(), ()


async def _begin_encryption(batch: Batch, payload: Item) -> tuple[_Encryption, Payload]:
    managed = await _divisible_key(batch, payload, CryptographicUsageMask.ENCRYPT)
    parameters = _parameters(managed, payload)
    key, nonce, made = await _key(batch, managed), b"", Payload()
    if parameters.mode != BlockCipherMode.ECB:
        given = read_octets(payload, Tag.IV_COUNTER_NONCE) or None
        nonce = os.urandom(parameters.nonce_size) if given is None else given
        made = (octets(Tag.IV_COUNTER_NONCE, nonce),) if given is None else ()
        if parameters.mode == BlockCipherMode.GCM:
            await count_gcm_invocation(batch, managed, given)
    if parameters.mode == BlockCipherMode.GCM:
        cipher = primitives.aes_gcm_encryptor(key, nonce, _additional(payload), parameters.tag_size)
    elif parameters.mode == BlockCipherMode.CBC:
        cipher = primitives.aes_cbc_encryptor(key, nonce, padded=parameters.padded)
    else:
        cipher = primitives.insecure_ecb_encryptor(key, padded=parameters.padded)
    return _Encryption(cipher, PiecesUsage(managed)), made


async def _begin_decryption(batch: Batch, payload: Item) -> tuple[_Decryption, Payload]:
    managed = await _divisible_key(batch, payload, CryptographicUsageMask.DECRYPT)
    parameters = _parameters(managed, payload)
    if parameters.mode == BlockCipherMode.GCM:
        raise unsupported("GCM is decrypted only in one piece: before its end no plaintext is authentic")
    key = await _key(batch, managed)
    if parameters.mode == BlockCipherMode.CBC:
        nonce = required_nonce(read_octets(payload, Tag.IV_COUNTER_NONCE))
        return _Decryption(primitives.aes_cbc_decryptor(key, nonce, padded=parameters.padded)), ()
    return _Decryption(primitives.insecure_ecb_decryptor(key, padded=parameters.padded)), ()


async def _divisible_key(batch: Batch, payload: Item, use: int) -> ManagedObject:
    managed = await batch.usable_key(payload, use)
    if key_algorithm(managed) == CryptographicAlgorithm.RSA:
        raise unsupported("an RSA key encrypts and decrypts only in one piece")
    return managed


async def encrypt(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        return await process_piece(batch, payload, Operation.ENCRYPT, _begin_encryption, CryptographicUsageMask.ENCRYPT)
    managed = await batch.usable_key(payload, CryptographicUsageMask.ENCRYPT)
    if key_algorithm(managed) == CryptographicAlgorithm.RSA:
        return await _encrypt_with_rsa(batch, managed, payload)
    parameters, data = _parameters(managed, payload), whole_data(batch, payload)
    key = await _key(batch, managed)
    given, nonce = None, b""
    if parameters.mode != BlockCipherMode.ECB:
        # A missing nonce is generated and returned, whether or not the client requested a random one.
        given = read_octets(payload, Tag.IV_COUNTER_NONCE) or None
        nonce = os.urandom(parameters.nonce_size) if given is None else given
    if parameters.mode == BlockCipherMode.GCM:
        await count_gcm_invocation(batch, managed, given)
    await consume_usage(batch, managed, len(data))
    tag: tuple[Item, ...] = ()
    if parameters.mode == BlockCipherMode.GCM:
        sealed = primitives.aes_gcm_encrypt(key, nonce, data, _additional(payload), parameters.tag_size)
        if batch.version >= _TAG_IN_FIELD:
            tag = (octets(Tag.AUTHENTICATED_ENCRYPTION_TAG, sealed[-parameters.tag_size :]),)
            sealed = sealed[: -parameters.tag_size]
    elif parameters.mode == BlockCipherMode.CBC:
        sealed = primitives.aes_cbc_encrypt(key, nonce, data, padded=parameters.padded)
    else:
        sealed = primitives.insecure_ecb_encrypt(key, data, padded=parameters.padded)
    made = (octets(Tag.IV_COUNTER_NONCE, nonce),) if nonce and given is None else ()
    return (batch.about(managed.row.object_id), octets(Tag.DATA, sealed), *made, *tag)


async def decrypt(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        return await process_piece(batch, payload, Operation.DECRYPT, _begin_decryption, CryptographicUsageMask.DECRYPT)
    managed = await batch.usable_key(payload, CryptographicUsageMask.DECRYPT)
    if key_algorithm(managed) == CryptographicAlgorithm.RSA:
        return await _decrypt_with_rsa(batch, managed, payload)
    parameters, data = _parameters(managed, payload), whole_data(batch, payload)
    key = await _key(batch, managed)
    if parameters.mode == BlockCipherMode.ECB:
        plaintext = primitives.insecure_ecb_decrypt(key, data, padded=parameters.padded)
    else:
        nonce = required_nonce(read_octets(payload, Tag.IV_COUNTER_NONCE))
        if parameters.mode == BlockCipherMode.CBC:
            plaintext = primitives.aes_cbc_decrypt(key, nonce, data, padded=parameters.padded)
        else:
            tag = read_octets(payload, Tag.AUTHENTICATED_ENCRYPTION_TAG) or b""
            plaintext = primitives.aes_gcm_decrypt(key, nonce, data + tag, _additional(payload), parameters.tag_size)
    return (batch.about(managed.row.object_id), octets(Tag.DATA, plaintext))


async def _encrypt_with_rsa(batch: Batch, managed: ManagedObject, payload: Item) -> Payload:
    scheme, data = _rsa_request(batch, managed, payload)
    if managed.row.object_type != ObjectType.PUBLIC_KEY:
        raise invalid("encryption with RSA requires a public key")
    key = await batch.objects.open(batch.caller, managed)
    batch.charge(PUBLIC_KEY_COST)
    await consume_usage(batch, managed, len(data))
    sealed = await batch.parts.computing.run(batch.caller.tenant_id, lambda: asymmetric.encrypt(key, scheme, data))
    return (batch.about(managed.row.object_id), octets(Tag.DATA, sealed))


async def _decrypt_with_rsa(batch: Batch, managed: ManagedObject, payload: Item) -> Payload:
    scheme, data = _rsa_request(batch, managed, payload)
    if managed.row.object_type != ObjectType.PRIVATE_KEY:
        raise invalid("decryption with RSA requires a private key")
    key = await batch.objects.open(batch.caller, managed)
    batch.charge(private_key_cost(key))
    plaintext = await batch.parts.computing.run(batch.caller.tenant_id, lambda: asymmetric.decrypt(key, scheme, data))
    return (batch.about(managed.row.object_id), octets(Tag.DATA, plaintext))


def _rsa_request(batch: Batch, managed: ManagedObject, payload: Item) -> tuple[EncryptionScheme, bytes]:
    given, data = given_parameters(managed, payload), whole_data(batch, payload)
    if read_choice(given, Tag.CRYPTOGRAPHIC_ALGORITHM) not in (None, CryptographicAlgorithm.RSA):
        raise invalid("the key has another algorithm")
    return EncryptionScheme(given), data


def whole_data(batch: Batch, payload: Item) -> bytes:
    """Return the data of a request, and record its size for the audit."""
    data = required(read_octets(payload, Tag.DATA), Tag.DATA)
    batch.bytes = len(data)
    return data


def given_parameters(managed: ManagedObject, payload: Item) -> Item:
    """Return the cryptographic parameters of the request, else those of the key."""
    given = read_structure(payload, Tag.CRYPTOGRAPHIC_PARAMETERS) or named.first(managed.attributes, named.PARAMETERS)
    if given is None:
        raise invalid("cryptographic parameters are missing, in the request and in the key's attributes")
    return given


def key_algorithm(managed: ManagedObject) -> int | None:
    return named.integer(managed.attributes, named.ALGORITHM)


def _parameters(managed: ManagedObject, payload: Item) -> _Parameters:
    """Return the parameters of an encryption with AES; the mode has no default."""
    given = given_parameters(managed, payload)
    mode = read_choice(given, Tag.BLOCK_CIPHER_MODE)
    if mode not in (BlockCipherMode.GCM, BlockCipherMode.CBC, BlockCipherMode.ECB):
        raise invalid("the block cipher mode must be GCM, CBC or ECB")
    padding = read_choice(given, Tag.PADDING_METHOD)
    if padding not in (None, PaddingMethod.NONE, PaddingMethod.PKCS5):
        raise invalid("the padding method must be PKCS5 or none")
    if key_algorithm(managed) != CryptographicAlgorithm.AES:
        raise invalid("encryption and decryption require an AES or RSA key")
    asked = read_choice(given, Tag.CRYPTOGRAPHIC_ALGORITHM)
    if asked not in (None, CryptographicAlgorithm.AES):
        raise invalid("the key has another algorithm")
    padded = padding == PaddingMethod.PKCS5
    if mode != BlockCipherMode.GCM:
        return _Parameters(mode, padded, 0, primitives.BLOCK)
    return _Parameters(mode, padded, *_gcm_sizes(given))


def _gcm_sizes(given: Item) -> tuple[int, int]:
    """Return the bytes of the tag and of a nonce from the server; KMIP counts bytes of the tag, bits of the nonce."""
    tag, nonce_bits = read_number(given, Tag.TAG_LENGTH), read_number(given, Tag.IV_LENGTH) or 0
    if tag is not None and tag not in primitives.GCM_TAGS:
        # The reason that the profile case CS-BC-M-GCM-1 requires.
        raise KmipRefused(ResultReason.GENERAL_FAILURE, "the tag length must be 4, 8 or 12 to 16 bytes")
    # Random nonces have at least 96 bits (SP 800-38D, section 8.2.2). Smaller values are ignored: they are those of
    # clients that count bytes, or that give the nonce.
    nonce = nonce_bits // 8 if nonce_bits in _RANDOM_NONCE_BITS else primitives.GCM_NONCE
    return tag or primitives.GCM_TAG, nonce


def required_nonce(given: bytes | None) -> bytes:
    if given is None:
        raise malformed("the initialization vector, counter or nonce is missing")
    return given


def _additional(payload: Item) -> bytes:
    return read_octets(payload, Tag.AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA) or b""


async def _key(batch: Batch, managed: ManagedObject) -> bytes:
    return material.key_bytes(await batch.objects.open(batch.caller, managed))
