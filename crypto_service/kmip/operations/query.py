"""Query (KMIP 1.4, section 4.25) and Discover Versions (section 4.26).

Query returns the capabilities of this server, which do not depend on the caller. Discover Versions returns the common
versions in the client's order.
"""

from collections.abc import Sequence

from crypto_service.kmip.batch import Batch, Handler, Payload
from crypto_service.kmip.codec.enums import ObjectType, QueryFunction
from crypto_service.kmip.codec.errors import missing, wrong
from crypto_service.kmip.codec.fields import choice, flag, number, read_number, required, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType

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
    """Return the Query handler for `operations`, each with the minor version that introduced it."""

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


MAJOR = 1
MINORS = (4, 3, 2, 1, 0)
"""The supported versions, newest first."""


def version_item(minor: int, major: int = MAJOR) -> Item:
    return structure(
        Tag.PROTOCOL_VERSION, number(Tag.PROTOCOL_VERSION_MAJOR, major), number(Tag.PROTOCOL_VERSION_MINOR, minor)
    )


def read_version(item: Item) -> tuple[int, int]:
    return (
        required(read_number(item, Tag.PROTOCOL_VERSION_MAJOR), Tag.PROTOCOL_VERSION_MAJOR),
        required(read_number(item, Tag.PROTOCOL_VERSION_MINOR), Tag.PROTOCOL_VERSION_MINOR),
    )


async def discover_versions(_batch: Batch, payload: Item) -> Payload:
    asked = [read_version(item) for item in payload.all(Tag.PROTOCOL_VERSION)]
    both = [minor for major, minor in asked if major == MAJOR and minor in MINORS] if asked else MINORS
    return tuple(version_item(minor) for minor in both)
