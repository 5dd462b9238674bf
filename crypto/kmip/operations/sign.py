"""Sign and Signature Verify (KMIP 1.4, sections 4.31, 4.32)."""

from crypto.kmip import attributes as named
from crypto.kmip import material
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.enums import CryptographicUsageMask, ObjectType, ValidityIndicator
from crypto.kmip.fields import choice, octets, read_octets, read_structure, required
from crypto.kmip.items import Item
from crypto.kmip.managed import Managed
from crypto.kmip.operations.cipher import require_whole
from crypto.kmip.operations.usage import spend
from crypto.kmip.refusals import invalid
from crypto.kmip.signatures import Scheme, sign, verifies
from crypto.kmip.tags import Tag
from crypto.kmip.usable import require_usable


async def make_signature(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.SIGN, batch.now)
    data, scheme = _data(batch, payload), _scheme(managed, payload)
    if managed.row.object_type != ObjectType.PRIVATE_KEY:
        raise invalid("only private keys sign")
    key = material.key_bytes(await batch.objects.open(batch.caller, managed))
    await spend(batch, managed, len(data))
    # RSA takes a millisecond or more, in which nobody else would be served.
    made = await batch.parts.blocking.run(batch.caller.tenant_id, lambda: sign(key, scheme, data))
    return (batch.about(managed.row.object_id), octets(Tag.SIGNATURE_DATA, made))


async def verify_signature(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.VERIFY, batch.now)
    data, scheme = _data(batch, payload), _scheme(managed, payload)
    if managed.row.object_type != ObjectType.PUBLIC_KEY:
        raise invalid("only public keys verify")
    signature = required(read_octets(payload, Tag.SIGNATURE_DATA), Tag.SIGNATURE_DATA)
    key = material.key_bytes(await batch.objects.open(batch.caller, managed))
    valid = verifies(key, scheme, data, signature)
    told = ValidityIndicator.VALID if valid else ValidityIndicator.INVALID
    return (batch.about(managed.row.object_id), choice(Tag.VALIDITY_INDICATOR, told))


def _scheme(managed: Managed, payload: Item) -> Scheme:
    given = read_structure(payload, Tag.CRYPTOGRAPHIC_PARAMETERS) or named.first(managed.attributes, named.PARAMETERS)
    if given is None:
        raise invalid("cryptographic parameters are missing, in the request and in the key's attributes")
    return Scheme(given)


def _data(batch: Batch, payload: Item) -> bytes:
    require_whole(payload)
    data = required(read_octets(payload, Tag.DATA), Tag.DATA)
    batch.bytes = len(data)
    return data
