"""Requests that are well-formed TTLV and make no sense: each is answered, and none is an internal error."""

import random

import pytest

from crypto.kmip.enums import Operation, ResultReason
from crypto.kmip.fields import choice, interval, long, number, octets, structure, text
from crypto.kmip.items import Item, ItemType
from crypto.kmip.served import OPERATIONS
from crypto.kmip.tags import Tag
from tests.crypto.kmip.messages import batch_item, message
from tests.crypto.kmip.scene import VALUE, Answered, Scene, a_date, a_name, attribute, cbc, creation, custom, gcm

VALUES = {
    ItemType.STRUCTURE: [(), (text(Tag.NAME_VALUE, "n"),)],
    ItemType.INTEGER: [0, -1, 2**31 - 1, -(2**31)],
    ItemType.LONG_INTEGER: [0, -1, 2**63 - 1],
    ItemType.BIG_INTEGER: [0, -(2**70), 2**200],
    ItemType.ENUMERATION: [0, 1, 9, 2**32 - 1],
    ItemType.BOOLEAN: [True, False],
    ItemType.TEXT_STRING: ["", "\0", "x-a", "a" * 3000, "Name", "State"],
    ItemType.BYTE_STRING: [b"", b"\0", bytes(16), bytes(2000)],
    ItemType.DATE_TIME: [0, -(2**63), 2**63 - 1],
    ItemType.INTERVAL: [0, 2**32 - 1],
}


def sensible(key: str) -> list[Item]:
    """A request for every operation, about one key."""
    it = text(Tag.UNIQUE_IDENTIFIER, key)
    limits = structure(VALUE, long(Tag.USAGE_LIMITS_TOTAL, 5), choice(Tag.USAGE_LIMITS_UNIT, 1))
    data, nonce = octets(Tag.DATA, bytes(32)), octets(Tag.IV_COUNTER_NONCE, bytes(16))
    reason = structure(Tag.REVOCATION_REASON, choice(Tag.REVOCATION_REASON_CODE, 6))
    derivation = structure(
        Tag.DERIVATION_PARAMETERS,
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, 6)),
        octets(Tag.DERIVATION_DATA, b"data"),
        octets(Tag.SALT, b"salt"),
        number(Tag.ITERATION_COUNT, 1000),
    )
    wrapping = structure(
        Tag.KEY_WRAPPING_SPECIFICATION,
        choice(Tag.WRAPPING_METHOD, 1),
        structure(Tag.ENCRYPTION_KEY_INFORMATION, it, structure(Tag.CRYPTOGRAPHIC_PARAMETERS)),
    )
    block = structure(
        Tag.KEY_BLOCK,
        choice(Tag.KEY_FORMAT_TYPE, 1),
        structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, bytes(16))),
        choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 3),
        number(Tag.CRYPTOGRAPHIC_LENGTH, 128),
    )
    template = creation(attribute("Usage Limits", limits), a_date("Activation Date", 1))[2]
    scheme = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, 5))
    payloads = {
        Operation.DISCOVER_VERSIONS: (
            structure(
                Tag.PROTOCOL_VERSION, number(Tag.PROTOCOL_VERSION_MAJOR, 1), number(Tag.PROTOCOL_VERSION_MINOR, 0)
            ),
        ),
        Operation.QUERY: (choice(Tag.QUERY_FUNCTION, 1), choice(Tag.QUERY_FUNCTION, 0xB)),
        Operation.CREATE: (choice(Tag.OBJECT_TYPE, 2), template),
        Operation.CREATE_KEY_PAIR: (
            structure(Tag.COMMON_TEMPLATE_ATTRIBUTE, attribute("Cryptographic Algorithm", choice(VALUE, 6))),
        ),
        Operation.REGISTER: (choice(Tag.OBJECT_TYPE, 2), template, structure(Tag.SYMMETRIC_KEY, block)),
        Operation.REKEY: (it, interval(Tag.OFFSET, 5), structure(Tag.TEMPLATE_ATTRIBUTE, custom("x-a", "1"))),
        Operation.DERIVE_KEY: (choice(Tag.OBJECT_TYPE, 7), it, choice(Tag.DERIVATION_METHOD, 1), derivation, template),
        Operation.LOCATE: (
            number(Tag.MAXIMUM_ITEMS, 2),
            number(Tag.STORAGE_STATUS_MASK, 1),
            a_name("n"),
            custom("x-a", "1"),
        ),
        Operation.CHECK: (it, long(Tag.USAGE_LIMITS_COUNT, 1), number(Tag.CRYPTOGRAPHIC_USAGE_MASK, 4)),
        Operation.GET: (it, choice(Tag.KEY_FORMAT_TYPE, 1), wrapping),
        Operation.GET_ATTRIBUTES: (it, text(Tag.ATTRIBUTE_NAME, "Name")),
        Operation.ADD_ATTRIBUTE: (it, custom("x-a", "1")),
        Operation.MODIFY_ATTRIBUTE: (it, a_date("Deactivation Date", 2**40)),
        Operation.DELETE_ATTRIBUTE: (it, text(Tag.ATTRIBUTE_NAME, "x-a"), number(Tag.ATTRIBUTE_INDEX, 0)),
        Operation.GET_USAGE_ALLOCATION: (it, long(Tag.USAGE_LIMITS_COUNT, 1)),
        Operation.REVOKE: (it, reason),
        Operation.ENCRYPT: (it, gcm(), data),
        Operation.DECRYPT: (it, cbc(), data, nonce),
        Operation.SIGN: (it, scheme, data),
        Operation.SIGNATURE_VERIFY: (it, scheme, data, octets(Tag.SIGNATURE_DATA, b"s")),
        Operation.MAC: (it, data),
        Operation.MAC_VERIFY: (it, data, octets(Tag.MAC_DATA, b"m")),
    }
    return [message(batch_item(operation, *payloads.get(operation, (it,)))) for operation in OPERATIONS]


def spoilt(item: Item, chance: random.Random) -> Item:
    """Return the item with one thing in it that is otherwise."""
    children = item.children()
    if children and chance.random() < 0.85:
        place = chance.randrange(len(children))
        return Item(item.tag, item.type, (*children[:place], spoilt(children[place], chance), *children[place + 1 :]))
    kind = chance.choice(list(ItemType))
    return chance.choice(
        [
            Item(item.tag, kind, chance.choice(VALUES[kind])),
            Item(item.tag, item.type, chance.choice(VALUES[item.type])),
            Item(chance.choice(list(Tag)), item.type, item.value),
            Item(item.tag, ItemType.STRUCTURE, (item, item)),
            Item(item.tag, item.type, children[1:] if children else item.value),
            Item(item.tag, item.type, (*children, *children[:1]) if children else item.value),
        ]
    )


@pytest.mark.parametrize("seed", range(8))
async def test_a_spoilt_request_is_answered_and_is_no_internal_error(scene: Scene, seed: int):
    chance, client = random.Random(seed), scene.client()  # noqa: S311 - to be the same each time
    for request in sensible(await client.activated(mask=0xFFFFF)) * 4:
        odd = spoilt(spoilt(request, chance), chance)
        response = await client.send(odd)
        for item in response.all(Tag.BATCH_ITEM):
            assert Answered(item).reason is not ResultReason.GENERAL_FAILURE, Answered(item).message
