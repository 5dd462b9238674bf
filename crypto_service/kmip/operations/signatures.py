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
from crypto_service.kmip.objects.managed_object import ManagedObject
from crypto_service.kmip.operations.crypto import given_parameters, whole_data
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
        return b"", (await _result(batch, self.managed, payload, digest, scheme),)


async def sign(batch: Batch, payload: Item) -> Payload:
    return await _process(batch, payload, Operation.SIGN, CryptographicUsageMask.SIGN, ObjectType.PRIVATE_KEY)


async def signature_verify(batch: Batch, payload: Item) -> Payload:
    use = CryptographicUsageMask.VERIFY
    return await _process(batch, payload, Operation.SIGNATURE_VERIFY, use, ObjectType.PUBLIC_KEY)


async def _process(batch: Batch, payload: Item, operation: Operation, use: int, object_type: ObjectType) -> Payload:
    async def begin(batch: Batch, payload: Item) -> tuple[_Digest, Payload]:
        managed, given = await _key(batch, payload, use, object_type)
        return _Digest(managed, given, _scheme(managed, given)), ()

    if is_piece(payload):
        return await process_piece(batch, payload, operation, begin, use)
    managed, given = await _key(batch, payload, use, object_type)
    data, scheme = _signature_request(batch, managed, given, payload)
    return (batch.about(managed.row.object_id), await _result(batch, managed, payload, data, scheme))


async def _key(batch: Batch, payload: Item, use: int, object_type: ObjectType) -> tuple[ManagedObject, Item]:
    """Return the key and the cryptographic parameters."""
    managed = await batch.usable_key(payload, use)
    given = given_parameters(managed, payload)
    if managed.row.object_type != object_type:
        raise invalid("signing requires a private key, and the verification of a signature a public key")
    return managed, given


async def _result(batch: Batch, managed: ManagedObject, payload: Item, data: bytes, scheme: SignatureScheme) -> Item:
    if managed.row.object_type == ObjectType.PRIVATE_KEY:
        return await _signed(batch, managed, data, scheme)
    return await _verified(batch, managed, payload, data, scheme)


async def _signed(batch: Batch, managed: ManagedObject, data: bytes, scheme: SignatureScheme) -> Item:
    """Return the signature of the data, or of the digest that `scheme` expects."""
    key = await batch.objects.open(batch.caller, managed)
    # Before the usage limit is reduced: a refused request uses nothing.
    batch.charge(private_key_cost(key))
    await consume_usage(batch, managed, len(data))
    # RSA takes a millisecond or more, which would block the event loop.
    made = await batch.parts.computing.run(batch.caller.tenant_id, lambda: asymmetric.sign(key, scheme, data))
    return octets(Tag.SIGNATURE_DATA, made)


async def _verified(batch: Batch, managed: ManagedObject, payload: Item, data: bytes, scheme: SignatureScheme) -> Item:
    """Return whether the signature of the payload is valid for the data, or for the digest that `scheme` expects."""
    signature = required(read_octets(payload, Tag.SIGNATURE_DATA), Tag.SIGNATURE_DATA)
    key = await batch.objects.open(batch.caller, managed)
    batch.charge(PUBLIC_KEY_COST)
    valid = await batch.parts.computing.run(
        batch.caller.tenant_id, lambda: asymmetric.is_valid_signature(key, scheme, data, signature)
    )
    return choice(Tag.VALIDITY_INDICATOR, ValidityIndicator.VALID if valid else ValidityIndicator.INVALID)


def _signature_request(
    batch: Batch, managed: ManagedObject, given: Item, payload: Item
) -> tuple[bytes, SignatureScheme]:
    """Return the data or its digest, and the signature's scheme (KMIP 1.4, sections 4.31 and 4.32)."""
    digest = read_octets(payload, Tag.DIGESTED_DATA)
    if digest is None:
        return whole_data(batch, payload), _scheme(managed, given)
    if payload.first(Tag.DATA) is not None:
        raise malformed("the request has both data and digested data")
    batch.bytes = len(digest)
    return digest, _scheme(managed, given, digest)


def _scheme(managed: ManagedObject, given: Item, digest: bytes | None = None) -> SignatureScheme:
    return SignatureScheme(given, digest, verifies=managed.row.object_type == ObjectType.PUBLIC_KEY)
