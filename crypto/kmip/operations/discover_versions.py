"""Discover Versions (KMIP 1.4, section 4.26): those that both sides speak, in the client's order."""

from crypto.kmip.batch import Batch, Payload
from crypto.kmip.fields import number, read_number, required, structure
from crypto.kmip.items import Item
from crypto.kmip.tags import Tag

MAJOR = 1
MINORS = (4, 3, 2, 1, 0)
"""The versions that are spoken, preferred ones first."""


def version_item(minor: int) -> Item:
    return structure(
        Tag.PROTOCOL_VERSION, number(Tag.PROTOCOL_VERSION_MAJOR, MAJOR), number(Tag.PROTOCOL_VERSION_MINOR, minor)
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
