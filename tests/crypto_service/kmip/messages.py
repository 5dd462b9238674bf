"""Request messages of clients, valid by default."""

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import choice, number, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item


def version(minor: int = 4, major: int = 1) -> Item:
    return structure(
        Tag.PROTOCOL_VERSION, number(Tag.PROTOCOL_VERSION_MAJOR, major), number(Tag.PROTOCOL_VERSION_MINOR, minor)
    )


def batch_item(operation: int, *payload: Item) -> Item:
    return structure(Tag.BATCH_ITEM, choice(Tag.OPERATION, operation), structure(Tag.REQUEST_PAYLOAD, *payload))


def message(*items: Item, minor: int = 4, major: int = 1, header: tuple[Item, ...] = ()) -> Item:
    head = structure(Tag.REQUEST_HEADER, version(minor, major), *header, number(Tag.BATCH_COUNT, len(items)))
    return structure(Tag.REQUEST_MESSAGE, head, *items)


def a_get(object_id: str = "object-1", minor: int = 4, header: tuple[Item, ...] = ()) -> Item:
    return message(batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id)), minor=minor, header=header)


def encoded(item: Item | None = None) -> bytes:
    return ttlv.encode(item or a_get())
