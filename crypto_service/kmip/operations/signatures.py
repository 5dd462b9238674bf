"""Sign and Signature Verify with RSA and elliptic curve keys (KMIP 1.4, sections 4.31 and 4.32)."""

from cryptography.hazmat.primitives import hashes

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import (
    CryptographicUsageMask,
    ObjectType,
    Operation,
    ValidityIndicator,
)
from crypto_service.kmip.codec.errors import invalid, malformed
from crypto_service.kmip.codec.fields import choice, octets, read_octets, required
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import asymmetric
from crypto_service.kmip.objects.asymmetric import PUBLIC_KEY_COST, SignatureScheme
from crypto_service.kmip.objects.key_formats import private_key_cost
from crypto_service.kmip.objects.managed_object import ManagedObject, require_usable
from crypto_service.kmip.operations.crypto import given_parameters, usable_for, whole_data
from crypto_service.kmip.operations.streaming import is_piece, process_piece
from crypto_service.kmip.operations.usage_limits import consume_usage


class _Digest:
    """The hash of data in pieces, for a signature or for its verification."""

    def __init__(self, managed: ManagedObject, given: Item, scheme: SignatureScheme) -> None:
        self.managed, self.given = managed, given
        self._hash = hashes.Hash(scheme.hash)

    async def update(self, _batch: Batch, data: bytes) -> bytes:
        self._hash.update(data)
        return b""

    async def finish(self, batch: Batch, payload: Item) -> tuple[bytes, Payload]:
        digest = self._hash.finalize()
        scheme = _scheme(self.managed, self.given, digest)
        if self.managed.row.object_type == ObjectType.PRIVATE_KEY:
            return b"", (await _signed(batch, self.managed, digest, scheme),)
        return b"", (await _verified(batch, self.managed, payload, digest, scheme),)


async def _begin_signature(batch: Batch, payload: Item) -> tuple[_Digest, Payload]:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.SIGN, batch.now)
    given = given_parameters(managed, payload)
    _require_private(managed)
    return _Digest(managed, given, _scheme(managed, given)), ()


async def _begin_verification(batch: Batch, payload: Item) -> tuple[_Digest, Payload]:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.VERIFY, batch.now)
    given = given_parameters(managed, payload)
    _require_public(managed)
    return _Digest(managed, given, _scheme(managed, given)), ()


async def sign(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        check = usable_for(CryptographicUsageMask.SIGN)
        return await process_piece(batch, payload, Operation.SIGN, _begin_signature, check)
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.SIGN, batch.now)
    data, scheme = _signature_request(batch, managed, payload)
    _require_private(managed)
    signature = await _signed(batch, managed, data, scheme)
    return (batch.about(managed.row.object_id), signature)


def _require_private(managed: ManagedObject) -> None:
    if managed.row.object_type != ObjectType.PRIVATE_KEY:
        raise invalid("signing requires a private key")


async def _signed(batch: Batch, managed: ManagedObject, data: bytes, scheme: SignatureScheme) -> Item:
    """Return the signature of the data, or of the digest that `scheme` expects."""
    key = await batch.objects.open(batch.caller, managed)
    # Before the usage limit is reduced: a refused request uses nothing.
    batch.charge(private_key_cost(key))
    await consume_usage(batch, managed, len(data))
    # RSA takes a millisecond or more, which would block the event loop.
    made = await batch.parts.computing.run(batch.caller.tenant_id, lambda: asymmetric.sign(key, scheme, data))
    return octets(Tag.SIGNATURE_DATA, made)


async def signature_verify(batch: Batch, payload: Item) -> Payload:
    if is_piece(payload):
        check = usable_for(CryptographicUsageMask.VERIFY)
        return await process_piece(batch, payload, Operation.SIGNATURE_VERIFY, _begin_verification, check)
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.VERIFY, batch.now)
    data, scheme = _signature_request(batch, managed, payload)
    _require_public(managed)
    validity = await _verified(batch, managed, payload, data, scheme)
    return (batch.about(managed.row.object_id), validity)


def _require_public(managed: ManagedObject) -> None:
    if managed.row.object_type != ObjectType.PUBLIC_KEY:
        raise invalid("signature verification requires a public key")


async def _verified(batch: Batch, managed: ManagedObject, payload: Item, data: bytes, scheme: SignatureScheme) -> Item:
    """Return whether the signature of the payload is valid for the data, or for the digest that `scheme` expects."""
    signature = required(read_octets(payload, Tag.SIGNATURE_DATA), Tag.SIGNATURE_DATA)
    key = await batch.objects.open(batch.caller, managed)
    batch.charge(PUBLIC_KEY_COST)
    valid = await batch.parts.computing.run(
        batch.caller.tenant_id, lambda: asymmetric.is_valid_signature(key, scheme, data, signature)
    )
    return choice(Tag.VALIDITY_INDICATOR, ValidityIndicator.VALID if valid else ValidityIndicator.INVALID)


def _signature_request(batch: Batch, managed: ManagedObject, payload: Item) -> tuple[bytes, SignatureScheme]:
    """Return the data or its digest, and the signature's parameters (KMIP 1.4, sections 4.31 and 4.32)."""
    given = given_parameters(managed, payload)
    digest = read_octets(payload, Tag.DIGESTED_DATA)
    if digest is None:
        return whole_data(batch, payload), _scheme(managed, given)
    if payload.first(Tag.DATA) is not None:
        raise malformed("the request has both data and digested data")
    batch.bytes = len(digest)
    return digest, _scheme(managed, given, digest)


def _scheme(managed: ManagedObject, given: Item, digest: bytes | None = None) -> SignatureScheme:
    return SignatureScheme(given, digest, verifies=managed.row.object_type == ObjectType.PUBLIC_KEY)
