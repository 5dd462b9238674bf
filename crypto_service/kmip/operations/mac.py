"""MAC and MAC Verify (KMIP 1.4, sections 4.33 and 4.34), and Hash (section 4.37), which uses no key.

With an HMAC key, a MAC is an HMAC. With an AES key it is CMAC, GMAC or an HMAC, without a default; the specification
has no name for GMAC, so its mode is GCM. It has no field for the nonce of GMAC either, so this is the field of Encrypt:
a client gives a nonce, or gets one with the MAC.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes

from core.errors.services import CiphertextRefused
from crypto_service.keys import primitives
from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    Operation,
    ValidityIndicator,
)
from crypto_service.kmip.codec.errors import invalid, unsupported
from crypto_service.kmip.codec.fields import choice, octets, read_choice, read_octets, read_structure, required
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import key_material as material
from crypto_service.kmip.objects.algorithms import HASHES
from crypto_service.kmip.objects.managed_object import ManagedObject
from crypto_service.kmip.operations.crypto import key_algorithm, required_nonce, whole_data
from crypto_service.kmip.operations.invocation_limit import count_gcm_invocation
from crypto_service.kmip.operations.streaming import is_piece, process_piece
from crypto_service.kmip.operations.usage_limits import PiecesUsage, consume_usage

_HASHES: Mapping[int, primitives.Hash] = MappingProxyType(
    {
        CryptographicAlgorithm.HMAC_SHA1: primitives.Hash.SHA_1,
        CryptographicAlgorithm.HMAC_SHA256: primitives.Hash.SHA_256,
        CryptographicAlgorithm.HMAC_SHA384: primitives.Hash.SHA_384,
        CryptographicAlgorithm.HMAC_SHA512: primitives.Hash.SHA_512,
    }
)
_MODES = (BlockCipherMode.CMAC, BlockCipherMode.GCM)
_Method = primitives.Hash | BlockCipherMode


class _Mac:
    """A MAC of data in pieces, or its verification, which is without `usage`: usage limits do not apply to it."""

    def __init__(self, context: primitives.MacContext, usage: PiecesUsage | None) -> None:
        self._context, self._usage = context, usage

    async def update(self, batch: Batch, data: bytes) -> bytes:
        if self._usage is not None:
            await self._usage.consume(batch, len(data))
        self._context.update(data)
        return b""

    async def finish(self, _batch: Batch, payload: Item) -> tuple[bytes, Payload]:
        if self._usage is not None:
            return b"", (octets(Tag.MAC_DATA, self._context.finish()),)
        valid = self._context.verify(required(read_octets(payload, Tag.MAC_DATA), Tag.MAC_DATA))
        return b"", (_validity(valid=valid),)


class _Hash:
    """A hash of data in pieces."""

    def __init__(self, context: hashes.Hash) -> None:
        self._context = context

    async def update(self, _batch: Batch, data: bytes) -> bytes:
        self._context.update(data)
        return b""

    async def finish(self, _batch: Batch, _payload: Item) -> tuple[bytes, Payload]:
        return self._context.finalize(), ()


async def _begin_hash(_batch: Batch, payload: Item) -> tuple[_Hash, Payload]:
    return _Hash(_new_hash(payload)), ()


def _validity(*, valid: bool) -> Item:
    return choice(Tag.VALIDITY_INDICATOR, ValidityIndicator.VALID if valid else ValidityIndicator.INVALID)


async def mac(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        return await _process_piece(batch, payload, Operation.MAC, CryptographicUsageMask.MAC_GENERATE)
    managed = await batch.usable_key(payload, CryptographicUsageMask.MAC_GENERATE)
    data, method = whole_data(batch, payload), _method(managed, payload)
    key, nonce, made_nonce = await _key(batch, managed), b"", Payload()
    if method is BlockCipherMode.GCM:
        given = read_octets(payload, Tag.IV_COUNTER_NONCE) or None
        await count_gcm_invocation(batch, managed, given)
        nonce = os.urandom(primitives.GCM_NONCE) if given is None else given
        made_nonce = (octets(Tag.IV_COUNTER_NONCE, nonce),) if given is None else ()
    await consume_usage(batch, managed, len(data))
    if isinstance(method, primitives.Hash):
        made = primitives.hmac_digest(method, key, data)
    elif method is BlockCipherMode.CMAC:
        made = primitives.aes_cmac(key, data)
    else:
        made = primitives.aes_gmac(key, nonce, data)
    return (batch.about(managed.row.object_id), octets(Tag.MAC_DATA, made), *made_nonce)


async def mac_verify(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        return await _process_piece(batch, payload, Operation.MAC_VERIFY, CryptographicUsageMask.MAC_VERIFY)
    managed = await batch.usable_key(payload, CryptographicUsageMask.MAC_VERIFY)
    data, method = whole_data(batch, payload), _method(managed, payload)
    presented = required(read_octets(payload, Tag.MAC_DATA), Tag.MAC_DATA)
    key = await _key(batch, managed)
    try:
        if isinstance(method, primitives.Hash):
            primitives.hmac_verify(method, key, data, presented)
        elif method is BlockCipherMode.CMAC:
            primitives.aes_cmac_verify(key, data, presented)
        else:
            nonce = required_nonce(read_octets(payload, Tag.IV_COUNTER_NONCE))
            primitives.aes_gmac_verify(key, nonce, data, presented)
    except CiphertextRefused:
        valid = False
    else:
        valid = True
    return (batch.about(managed.row.object_id), _validity(valid=valid))


async def _process_piece(batch: Batch, payload: Item, operation: Operation, use: int) -> Payload:
    async def begin(batch: Batch, payload: Item) -> tuple[_Mac, Payload]:
        managed = await batch.usable_key(payload, use)
        method = _method(managed, payload)
        if method is BlockCipherMode.GCM:
            raise unsupported("a GMAC is made only of data in one piece")
        algorithm = method if isinstance(method, primitives.Hash) else None
        context = primitives.MacContext(await _key(batch, managed), algorithm)
        return _Mac(context, PiecesUsage(managed) if operation == Operation.MAC else None), ()

    return await process_piece(batch, payload, operation, begin, use)


async def make_hash(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        return await process_piece(batch, payload, Operation.HASH, _begin_hash, None)
    made = _new_hash(payload)
    made.update(whole_data(batch, payload))
    return (octets(Tag.DATA, made.finalize()),)


def _new_hash(payload: Item) -> hashes.Hash:
    given = required(read_structure(payload, Tag.CRYPTOGRAPHIC_PARAMETERS), Tag.CRYPTOGRAPHIC_PARAMETERS)
    algorithm = HASHES.get(required(read_choice(given, Tag.HASHING_ALGORITHM), Tag.HASHING_ALGORITHM))
    if algorithm is None:
        raise invalid("the hashing algorithm is not supported")
    return hashes.Hash(algorithm)


def _method(managed: ManagedObject, payload: Item) -> _Method:
    """Return the hash of an HMAC or the mode of a MAC with AES; the request cannot change that of an HMAC key."""
    own = key_algorithm(managed)
    given = read_structure(payload, Tag.CRYPTOGRAPHIC_PARAMETERS) or named.first(managed.attributes, named.PARAMETERS)
    asked, mode = None, None
    if given is not None:
        asked, mode = read_choice(given, Tag.CRYPTOGRAPHIC_ALGORITHM), read_choice(given, Tag.BLOCK_CIPHER_MODE)
    if own is None or (own not in _HASHES and own != CryptographicAlgorithm.AES):
        raise invalid("a MAC requires an HMAC or AES key")
    if own == CryptographicAlgorithm.AES and asked is not None and asked in _HASHES and mode is None:
        return _HASHES[asked]
    if asked not in (None, own):
        raise invalid("the key has another algorithm")
    if own in _HASHES:
        return _HASHES[own]
    if mode not in _MODES:
        raise invalid("a MAC with an AES key needs the block cipher mode CMAC or GCM (GMAC), or an HMAC algorithm")
    return BlockCipherMode(mode)


async def _key(batch: Batch, managed: ManagedObject) -> bytes:
    return material.key_bytes(await batch.objects.open(batch.caller, managed))
