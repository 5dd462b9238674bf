"""Get (KMIP 1.4, section 4.12): the one operation that hands out what an object holds."""

from dataclasses import replace

from crypto.kmip import attributes as named
from crypto.kmip import material, states, ttlv
from crypto.kmip.batch import Batch, Payload
from crypto.kmip.enums import KeyWrapType, ResultReason
from crypto.kmip.fields import choice, flag, read_choice, read_structure
from crypto.kmip.items import Item
from crypto.kmip.managed import Managed
from crypto.kmip.refusals import KmipRefused, denied
from crypto.kmip.tags import Tag
from crypto.kmip.usable import require_here
from crypto.kmip.wrapping import wrapped


async def get(batch: Batch, payload: Item) -> Payload:
    managed = await batch.objects.get(batch.caller, batch.object_id(payload))
    require_here(managed)
    states.require_gettable(managed.state_at(batch.now))
    specification = read_structure(payload, Tag.KEY_WRAPPING_SPECIFICATION)
    if managed.sensitive and specification is None:
        raise denied("the object is sensitive and leaves only wrapped", ResultReason.SENSITIVE)
    if not managed.extractable:
        raise denied("the object is not extractable", ResultReason.NOT_EXTRACTABLE)
    if read_choice(payload, Tag.KEY_WRAP_TYPE) not in (None, KeyWrapType.NOT_WRAPPED, KeyWrapType.AS_REGISTERED):
        raise KmipRefused(ResultReason.INVALID_FIELD, "there is no such key wrap type")
    if payload.first(Tag.KEY_COMPRESSION_TYPE) is not None:
        raise KmipRefused(ResultReason.KEY_COMPRESSION_TYPE_NOT_SUPPORTED, "keys are not compressed")
    form, kind = read_choice(payload, Tag.KEY_FORMAT_TYPE), managed.row.object_type
    data = await batch.objects.open_written(batch.caller, managed)
    if form is None and specification is None:
        given = ttlv.written(material.TAGS[kind], data)  # nothing in it changes
    else:
        given = material.in_format(kind, ttlv.decode(data), form)
    if specification is not None:
        given = await wrapped(batch, managed, given, specification)
    if managed.fresh:
        await batch.objects.serve(batch.caller, managed.row.object_id, lambda now_it: _served(now_it, batch.now))
    return (choice(Tag.OBJECT_TYPE, kind), batch.about(managed.row.object_id), given)


def _served(managed: Managed, now: int) -> Managed:
    """Return the object as no longer fresh; refuses it if it was revoked meanwhile."""
    require_here(managed)
    states.require_gettable(managed.state_at(now))
    if not managed.fresh:
        return managed
    attributes = named.put(managed.attributes, named.FRESH, flag(Tag.ATTRIBUTE_VALUE, value=False))
    row = replace(managed.row, attributes=named.encode(attributes))
    return replace(managed, row=row, attributes=attributes, fresh=False)
