"""Query (KMIP 1.4, section 4.25): what this server can do. Nothing in it depends on who asks."""

from collections.abc import Sequence

from crypto.kmip.batch import Batch, Handler, Payload
from crypto.kmip.enums import ObjectType, QueryFunction
from crypto.kmip.fields import choice, flag, structure, text
from crypto.kmip.items import Item, ItemType
from crypto.kmip.refusals import missing, wrong
from crypto.kmip.tags import Tag

VENDOR = "OpenKCM"
_TYPES = (
    ObjectType.CERTIFICATE,
    ObjectType.SYMMETRIC_KEY,
    ObjectType.SECRET_DATA,
    ObjectType.PUBLIC_KEY,
    ObjectType.PRIVATE_KEY,
    ObjectType.TEMPLATE,
    ObjectType.OPAQUE_OBJECT,
)


def query(operations: Sequence[tuple[int, int]]) -> Handler:
    """Return the operation for a server that has `operations`, each with the minor version that brought it."""

    async def answer(batch: Batch, payload: Item) -> Payload:
        functions = list(payload.all(Tag.QUERY_FUNCTION))
        if not functions:
            raise missing(Tag.QUERY_FUNCTION)
        if any(function.type is not ItemType.ENUMERATION for function in functions):
            raise wrong(Tag.QUERY_FUNCTION)
        asked = {function.value for function in functions}
        found: list[Item] = []
        if QueryFunction.QUERY_OPERATIONS in asked:
            found += [choice(Tag.OPERATION, operation) for operation, since in operations if since <= batch.version]
        if QueryFunction.QUERY_OBJECTS in asked:
            found += [choice(Tag.OBJECT_TYPE, kind) for kind in _TYPES]
        if QueryFunction.QUERY_SERVER_INFORMATION in asked:
            found += [text(Tag.VENDOR_IDENTIFICATION, VENDOR), structure(Tag.SERVER_INFORMATION)]
        if QueryFunction.QUERY_CAPABILITIES in asked and batch.version >= 3:
            found.append(_capabilities(batch.version))
        return tuple(found)

    return answer


def _capabilities(version: int) -> Item:
    own = [flag(tag, value=False) for tag in (Tag.STREAMING_CAPABILITY, Tag.ASYNCHRONOUS_CAPABILITY)]
    own.append(flag(Tag.ATTESTATION_CAPABILITY, value=False))
    if version >= 4:
        own += [flag(Tag.BATCH_UNDO_CAPABILITY, value=False), flag(Tag.BATCH_CONTINUE_CAPABILITY, value=True)]
    return structure(Tag.CAPABILITY_INFORMATION, *own)
