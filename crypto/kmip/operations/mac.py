"""MAC and MAC Verify (KMIP 1.4, sections 4.33, 4.34) with HMAC keys that stay here."""

from collections.abc import Mapping
from types import MappingProxyType

from core.errors.services import CiphertextRefused
from crypto import primitives
from crypto.kmip import attributes as named
from crypto.kmip import material
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.enums import CryptographicAlgorithm, CryptographicUsageMask, ValidityIndicator
from crypto.kmip.fields import choice, octets, read_choice, read_octets, read_structure, required
from crypto.kmip.items import Item
from crypto.kmip.managed import Managed
from crypto.kmip.operations.cipher import require_whole
from crypto.kmip.refusals import invalid
from crypto.kmip.tags import Tag
from crypto.kmip.usable import require_usable

_HASHES: Mapping[int, primitives.Hash] = MappingProxyType(
    {
        CryptographicAlgorithm.HMAC_SHA1: primitives.Hash.SHA_1,
        CryptographicAlgorithm.HMAC_SHA256: primitives.Hash.SHA_256,
        CryptographicAlgorithm.HMAC_SHA384: primitives.Hash.SHA_384,
        CryptographicAlgorithm.HMAC_SHA512: primitives.Hash.SHA_512,
    }
)


async def mac(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.MAC_GENERATE, batch.now)
    data, algorithm = _data(batch, payload), _hash(managed, payload)
    made = primitives.hmac_digest(algorithm, await _key(batch, managed), data)
    return (batch.about(managed.row.object_id), octets(Tag.MAC_DATA, made))


async def mac_verify(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_usable(managed, CryptographicUsageMask.MAC_VERIFY, batch.now)
    data, algorithm = _data(batch, payload), _hash(managed, payload)
    presented = required(read_octets(payload, Tag.MAC_DATA), Tag.MAC_DATA)
    try:
        primitives.hmac_verify(algorithm, await _key(batch, managed), data, presented)
    except CiphertextRefused:
        validity = ValidityIndicator.INVALID
    else:
        validity = ValidityIndicator.VALID
    return (batch.about(managed.row.object_id), choice(Tag.VALIDITY_INDICATOR, validity))


def _hash(managed: Managed, payload: Item) -> primitives.Hash:
    """Return the hash that the key's algorithm says; the request may repeat it and not change it."""
    own = named.whole(managed.attributes, named.ALGORITHM)
    given = read_structure(payload, Tag.CRYPTOGRAPHIC_PARAMETERS) or named.first(managed.attributes, named.PARAMETERS)
    asked = None if given is None else read_choice(given, Tag.CRYPTOGRAPHIC_ALGORITHM)
    if own is None or own not in _HASHES:
        raise invalid("only HMAC keys make a MAC")
    if asked not in (None, own):
        raise invalid("the key is of another algorithm")
    return _HASHES[own]


def _data(batch: Batch, payload: Item) -> bytes:
    require_whole(payload)
    data = required(read_octets(payload, Tag.DATA), Tag.DATA)
    batch.bytes = len(data)
    return data


async def _key(batch: Batch, managed: Managed) -> bytes:
    return material.key_bytes(await batch.objects.open(batch.caller, managed))
