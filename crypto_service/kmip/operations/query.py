"""Query (KMIP 1.4, section 4.25), Discover Versions (section 4.26) and Log (KMIP 2.1, section 6.1).

Query returns the capabilities of this server, which do not depend on the caller. Discover Versions returns the common
versions in the client's order.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import structlog

from crypto_service.kmip.batch import Batch, Handler, Payload
from crypto_service.kmip.codec.enums import DestroyAction, ObjectType, ProfileName, QueryFunction, RngMode, UnwrapMode
from crypto_service.kmip.codec.errors import missing, wrong
from crypto_service.kmip.codec.fields import choice, flag, number, read_number, read_text, required, structure, text
from crypto_service.kmip.codec.framing import VERSION_2, VERSIONS
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects.attributes import random_number_generator

log = structlog.get_logger()

VENDOR = "OpenKCM"
_MOST_LOGGED = 1_024
"""Characters of a client's message that are logged."""
_TYPES = (
    ObjectType.CERTIFICATE,
    ObjectType.SYMMETRIC_KEY,
    ObjectType.SECRET_DATA,
    ObjectType.PUBLIC_KEY,
    ObjectType.PRIVATE_KEY,
    ObjectType.TEMPLATE,
    ObjectType.OPAQUE_OBJECT,
)


_P = ProfileName
_PROFILES: Mapping[int, Sequence[ProfileName]] = MappingProxyType(
    {
        3: (
            _P.TAPE_LIBRARY_SERVER_KMIP_V1_3,
            _P.SYMMETRIC_KEY_LIFECYCLE_SERVER_KMIP_V1_3,
            _P.RNG_CRYPTOGRAPHIC_SERVER_KMIP_V1_3,
            _P.OPAQUE_MANAGED_OBJECT_STORE_SERVER_KMIP_V1_3,
            _P.STORAGE_ARRAY_WITH_SELF_ENCRYPTING_DRIVE_SERVER_KMIP_V1_3,
        ),
        4: (
            _P.TAPE_LIBRARY_SERVER_KMIP_V1_4,
            _P.SYMMETRIC_KEY_LIFECYCLE_SERVER_KMIP_V1_4,
            _P.RNG_CRYPTOGRAPHIC_SERVER_KMIP_V1_4,
            _P.OPAQUE_MANAGED_OBJECT_STORE_SERVER_KMIP_V1_4,
            _P.STORAGE_ARRAY_WITH_SELF_ENCRYPTING_DRIVE_SERVER_KMIP_V1_4,
        ),
    }
)
"""Feature level → profiles of that version. Not those that include TLS cipher suites with RSA key exchange (Baseline),
or Get of a compromised key (Symmetric Key Foundry)."""


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
            of_2 = batch.version >= VERSION_2
            found += [choice(Tag.OBJECT_TYPE, kind) for kind in _TYPES if not (of_2 and kind == ObjectType.TEMPLATE)]
        if QueryFunction.QUERY_SERVER_INFORMATION in asked:
            found += [text(Tag.VENDOR_IDENTIFICATION, VENDOR), structure(Tag.SERVER_INFORMATION)]
        if QueryFunction.QUERY_CAPABILITIES in asked and batch.version >= 3:
            found.append(_capabilities(batch.version))
        if QueryFunction.QUERY_RNGS in asked and batch.version >= 3:
            found.append(random_number_generator(Tag.RNG_PARAMETERS))
        if QueryFunction.QUERY_PROFILES in asked:
            names = _PROFILES.get(batch.version, ())
            found += [structure(Tag.PROFILE_INFORMATION, choice(Tag.PROFILE_NAME, name)) for name in names]
        return tuple(found)

    return answer


def _capabilities(version: int) -> Item:
    own = [flag(Tag.STREAMING_CAPABILITY, value=True), flag(Tag.ASYNCHRONOUS_CAPABILITY, value=False)]
    own.append(flag(Tag.ATTESTATION_CAPABILITY, value=False))
    if version >= 4:
        own += [flag(Tag.BATCH_UNDO_CAPABILITY, value=False), flag(Tag.BATCH_CONTINUE_CAPABILITY, value=True)]
    own += [
        choice(Tag.UNWRAP_MODE, UnwrapMode.NOT_PROCESSED),
        choice(Tag.DESTROY_ACTION, DestroyAction.KEY_MATERIAL_DELETED),
        choice(Tag.RNG_MODE, RngMode.SHARED_INSTANTIATION),
    ]
    return structure(Tag.CAPABILITY_INFORMATION, *own)


def version_item(major: int, minor: int) -> Item:
    return structure(
        Tag.PROTOCOL_VERSION, number(Tag.PROTOCOL_VERSION_MAJOR, major), number(Tag.PROTOCOL_VERSION_MINOR, minor)
    )


def read_version(item: Item) -> tuple[int, int]:
    return (
        required(read_number(item, Tag.PROTOCOL_VERSION_MAJOR), Tag.PROTOCOL_VERSION_MAJOR),
        required(read_number(item, Tag.PROTOCOL_VERSION_MINOR), Tag.PROTOCOL_VERSION_MINOR),
    )


async def log_message(batch: Batch, payload: Item) -> Payload:
    """Write a client's message to the log of the service (KMIP 2.1, section 6.1); not to the audit."""
    message = required(read_text(payload, Tag.LOG_MESSAGE), Tag.LOG_MESSAGE)
    shown = "".join(filter(str.isprintable, message[:_MOST_LOGGED]))
    log.info("message of a client", tenant_id=batch.caller.tenant_id, service=batch.caller.service, message=shown)
    return ()


async def discover_versions(_batch: Batch, payload: Item) -> Payload:
    asked = dict.fromkeys(read_version(item) for item in payload.all(Tag.PROTOCOL_VERSION))
    both = [version for version in asked if version in VERSIONS] if asked else VERSIONS
    return tuple(version_item(*version) for version in both)
