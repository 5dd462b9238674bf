"""Wrapped keys for Get (KMIP 1.4, section 2.1.6): AES key wrap under another key of the same service.

So a key can be handed to whoever has the wrapping key already, and to nobody else; it is also the only way a sensitive
key leaves.
"""

from crypto import primitives
from crypto.kmip import attributes as named
from crypto.kmip import material
from crypto.kmip.batch import Batch
from crypto.kmip.enums import (
    BlockCipherMode,
    CryptographicAlgorithm,
    CryptographicUsageMask,
    EncodingOption,
    ResultReason,
    WrappingMethod,
)
from crypto.kmip.fields import octets, read_choice, read_structure, read_text, required, structure
from crypto.kmip.items import Item, ItemType
from crypto.kmip.managed import Managed
from crypto.kmip.refusals import KmipRefused, denied, invalid, unsupported, wrong
from crypto.kmip.tags import Tag
from crypto.kmip.ttlv import encode
from crypto.kmip.usable import require_usable

_MOST_NAMES = 64


async def wrapped(batch: Batch, managed: Managed, held: Item, specification: Item) -> Item:
    """Return the object with its key value wrapped as `specification` says."""
    if read_choice(specification, Tag.WRAPPING_METHOD) != WrappingMethod.ENCRYPT:
        raise unsupported("keys are wrapped by encryption only")
    if specification.first(Tag.MAC_SIGNATURE_KEY_INFORMATION) is not None:
        raise unsupported("wrapped keys carry no signature")
    information = required(
        read_structure(specification, Tag.ENCRYPTION_KEY_INFORMATION), Tag.ENCRYPTION_KEY_INFORMATION
    )
    key = await _wrapping_key(batch, managed, information)
    option = read_choice(specification, Tag.ENCODING_OPTION)
    block = required(read_structure(held, Tag.KEY_BLOCK), Tag.KEY_BLOCK)
    value = required(read_structure(block, Tag.KEY_VALUE), Tag.KEY_VALUE)
    attributes = _attributes(batch, managed, specification)
    if option == EncodingOption.NO_ENCODING:
        if attributes:
            raise KmipRefused(ResultReason.ENCODING_OPTION_ERROR, "attributes are wrapped in TTLV encoding only")
        plain = material.key_bytes(held)
    elif option in (None, EncodingOption.TTLV_ENCODING):
        plain = encode(structure(Tag.KEY_VALUE, *value.children(), *attributes))
    else:
        raise KmipRefused(ResultReason.ENCODING_OPTION_ERROR, "there is no such encoding option")
    data = structure(
        Tag.KEY_WRAPPING_DATA,
        *(part for part in specification.children() if part.tag != Tag.ATTRIBUTE_NAME),
    )
    again = structure(
        Tag.KEY_BLOCK,
        *(
            octets(Tag.KEY_VALUE, primitives.aes_kw_wrap(key, plain)) if part.tag == Tag.KEY_VALUE else part
            for part in block.children()
        ),
        data,
    )
    return structure(held.tag, *(again if part.tag == Tag.KEY_BLOCK else part for part in held.children()))


async def _wrapping_key(batch: Batch, managed: Managed, information: Item) -> bytes:
    wanted = required(read_text(information, Tag.UNIQUE_IDENTIFIER), Tag.UNIQUE_IDENTIFIER)
    subject = batch.subject
    wrapping = await batch.objects.get(batch.caller, batch.checked_id(wanted))
    batch.subject = subject
    require_usable(wrapping, CryptographicUsageMask.WRAP_KEY, batch.now)
    if wrapping.row.object_id == managed.row.object_id:
        raise denied("a key does not wrap itself")
    parameters = read_structure(information, Tag.CRYPTOGRAPHIC_PARAMETERS) or named.first(
        wrapping.attributes, named.PARAMETERS
    )
    mode = None if parameters is None else read_choice(parameters, Tag.BLOCK_CIPHER_MODE)
    if mode != BlockCipherMode.NIST_KEY_WRAP:
        raise invalid("keys are wrapped by the NIST key wrap only")
    if named.whole(wrapping.attributes, named.ALGORITHM) != CryptographicAlgorithm.AES:
        raise invalid("only AES keys wrap")
    return material.key_bytes(await batch.objects.open(batch.caller, wrapping))


def _attributes(batch: Batch, managed: Managed, specification: Item) -> list[Item]:
    names = list(specification.all(Tag.ATTRIBUTE_NAME))
    if len(names) > _MOST_NAMES:
        raise invalid("too many attributes to wrap with the key")
    if any(name.type is not ItemType.TEXT_STRING for name in names):
        raise wrong(Tag.ATTRIBUTE_NAME)
    wanted = {name.value for name in names}
    return [
        named.shown(attribute, batch.version)
        for attribute in managed.all_attributes(batch.now)
        if attribute.name in wanted and named.visible(attribute.name, batch.version)
    ]
