"""Locate by the criteria that products send, and rejection of fields that would otherwise be ignored."""

import pytest

from core.errors.requests import TooManyRequests
from crypto_service.kmip.codec.enums import (
    BatchErrorContinuationOption,
    LinkType,
    Operation,
    ResultReason,
    UsageLimitsUnit,
)
from crypto_service.kmip.codec.fields import choice, flag, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import START, VALUE, Scene, a_date, a_name, attribute, creation, custom, limited


def in_template(*attributes: Item) -> Item:
    return structure(Tag.TEMPLATE_ATTRIBUTE, *attributes)


async def test_fortios_locates_each_key_by_a_name_inside_a_template_attribute(scene: Scene):
    client = scene.client(minor=0)
    names = ["vpn-ENC-AES-16-a", "vpn-ENC-AES-16-b", "vpn-AUTH-SHA1-20-a"]
    made = [await client.create(a_name(name)) for name in names]
    password = structure(Tag.CREDENTIAL_VALUE, text(Tag.USERNAME, "gate"), text(Tag.PASSWORD, "secret"))
    credential = structure(Tag.CREDENTIAL, choice(Tag.CREDENTIAL_TYPE, 1), password)
    header = (
        number(Tag.MAXIMUM_RESPONSE_SIZE, 65_536),
        structure(Tag.AUTHENTICATION, credential),
        choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.CONTINUE),
        flag(Tag.BATCH_ORDER_OPTION, value=True),
    )
    items = [
        structure(
            Tag.BATCH_ITEM,
            choice(Tag.OPERATION, Operation.LOCATE),
            octets(Tag.UNIQUE_BATCH_ITEM_ID, bytes([place])),
            structure(Tag.REQUEST_PAYLOAD, number(Tag.MAXIMUM_ITEMS, 1), in_template(a_name(name))),
        )
        for place, name in enumerate([*names, "vpn-AUTH-SHA1-20-b"])
    ]
    answers = await client.batch(*items, header=header)
    assert [answer.item.first(Tag.UNIQUE_BATCH_ITEM_ID).value for answer in answers] == [b"\0", b"\1", b"\2", b"\3"]
    assert [answer.ids for answer in answers] == [[made[0]], [made[1]], [made[2]], []]


async def test_criteria_inside_and_outside_a_template_attribute_all_apply(scene: Scene):
    client = scene.client()
    one = await client.create(custom("x-place", "rack 7"), custom("x-row", "1"))
    await client.create(custom("x-place", "rack 7"), custom("x-row", "2"))
    both = custom("x-place", "rack 7"), in_template(custom("x-row", "1"))
    assert (await client.ask(Operation.LOCATE, *both)).ids == [one]


async def test_batch_that_empties_the_bucket_still_searches(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    client = scene.client()
    made = await client.create(custom("x-place", "rack 7"))
    monkeypatch.setattr(client.process.parts.limits, "_rate", 40.0)
    search = structure(
        Tag.BATCH_ITEM,
        choice(Tag.OPERATION, Operation.LOCATE),
        structure(Tag.REQUEST_PAYLOAD, custom("x-place", "rack 7")),
    )
    answers = await client.batch(*[search] * 40)
    assert answers[0].ids == [made]
    assert answers[-1].message == TooManyRequests().message


@pytest.mark.parametrize(
    "field",
    [
        structure(0x420125, a_name("absent")),  # the Attributes of KMIP 2.0
        structure(Tag.NAME, text(Tag.NAME_VALUE, "absent")),
        structure(Tag.COMMON_TEMPLATE_ATTRIBUTE, a_name("absent")),
        in_template(structure(Tag.NAME, text(Tag.NAME_VALUE, "absent"))),
    ],
)
async def test_locate_with_an_unknown_field_is_rejected_and_returns_no_key(scene: Scene, field: Item):
    client = scene.client()
    await client.create(a_name("mine"))
    answer = await client.ask(Operation.LOCATE, field)
    assert answer.reason is ResultReason.INVALID_FIELD
    assert "is not supported in this operation" in answer.message


async def test_other_operations_ignore_a_field_that_they_do_not_have(scene: Scene):
    """Old clients send such fields, and a strict server would break them."""
    client = scene.client()
    object_id = await client.activated(a_name("mine"))
    for operation in (Operation.GET, Operation.GET_ATTRIBUTES, Operation.CHECK):
        assert (await client.about(operation, object_id, structure(0x54FFFF))).reason is None


async def test_new_object_with_an_unknown_restriction_is_not_created(scene: Scene):
    client = scene.client()
    operation, kind, template = creation()
    restricted = in_template(*template.children(), flag(Tag.SENSITIVE, value=True))
    assert (await client.ask(operation, kind, restricted)).reason is ResultReason.INVALID_FIELD
    assert (await client.ask(Operation.LOCATE)).ids == []


async def test_locate_by_a_part_of_a_structure(scene: Scene):
    client = scene.client()
    old = await client.create(a_name("mine"))
    new = (await client.about(Operation.REKEY, old)).object_id
    application = structure(VALUE, text(Tag.APPLICATION_NAMESPACE, "tape"), text(Tag.APPLICATION_DATA, "volume 7"))
    await client.about(Operation.ADD_ATTRIBUTE, old, attribute("Application Specific Information", application))
    replaced, replacement = choice(Tag.LINK_TYPE, LinkType.REPLACED_OBJECT_LINK), choice(Tag.LINK_TYPE, 0x106)
    to_old, to_new = text(Tag.LINKED_OBJECT_IDENTIFIER, old), text(Tag.LINKED_OBJECT_IDENTIFIER, new)
    expected: list[tuple[str, tuple[Item, ...], list[str]]] = [
        ("Link", (replaced,), [new]),
        ("Link", (to_new,), [old]),
        ("Link", (replaced, to_old), [new]),
        ("Link", (replacement, to_old), []),
        ("Link", (), [old, new]),
        ("Name", (text(Tag.NAME_VALUE, "mine"),), [new]),
        ("Name", (choice(Tag.NAME_TYPE, 1),), [new]),
        ("Name", (choice(Tag.NAME_TYPE, 2),), []),
        ("Application Specific Information", (text(Tag.APPLICATION_DATA, "volume 7"),), [old]),
    ]
    for name, parts, ids in expected:
        assert (await client.ask(Operation.LOCATE, attribute(name, structure(VALUE, *parts)))).ids == ids, (name, parts)
    wrong = attribute("Link", structure(VALUE, number(Tag.LINK_TYPE, 0x106)))
    assert (await client.ask(Operation.LOCATE, wrong)).reason is ResultReason.INVALID_FIELD


@pytest.mark.parametrize("operation", [Operation.ADD_ATTRIBUTE, Operation.MODIFY_ATTRIBUTE])
async def test_part_of_a_structure_is_no_attribute(scene: Scene, operation: Operation):
    client = scene.client()
    object_id = await client.create(a_name("mine"))
    part = attribute("Name", structure(VALUE, text(Tag.NAME_VALUE, "other")))
    assert (await client.about(operation, object_id, part)).reason is ResultReason.INVALID_FIELD


async def test_locate_by_usage_limits_finds_keys_with_at_least_as_much_left(scene: Scene):
    client = scene.client()
    small, large, other = [
        await client.activated(limited(total, unit))
        for total, unit in ((100, UsageLimitsUnit.BYTE), (900, UsageLimitsUnit.BYTE), (900, UsageLimitsUnit.OBJECT))
    ]
    await client.activated()
    assert (await client.encrypt(large, bytes(600))).reason is None
    byte = choice(Tag.USAGE_LIMITS_UNIT, UsageLimitsUnit.BYTE)
    expected: list[tuple[tuple[Item, ...], list[str]]] = [
        ((long(Tag.USAGE_LIMITS_TOTAL, 100), byte), [small, large]),
        ((long(Tag.USAGE_LIMITS_TOTAL, 101), byte), [large]),
        ((long(Tag.USAGE_LIMITS_TOTAL, 901),), []),
        ((long(Tag.USAGE_LIMITS_COUNT, 100),), [small, large, other]),
        ((long(Tag.USAGE_LIMITS_COUNT, 300), byte), [large]),
        ((long(Tag.USAGE_LIMITS_COUNT, 301),), [other]),
        ((long(Tag.USAGE_LIMITS_TOTAL, 900), long(Tag.USAGE_LIMITS_COUNT, 301), byte), []),
        ((number(Tag.USAGE_LIMITS_COUNT, 1),), []),
        ((), [small, large, other]),
    ]
    for parts, ids in expected:
        sought = attribute("Usage Limits", structure(VALUE, *parts))
        assert (await client.ask(Operation.LOCATE, sought)).ids == ids, parts
    wrong = attribute("Usage Limits", structure(VALUE, number(Tag.USAGE_LIMITS_TOTAL, 1)))
    assert (await client.ask(Operation.LOCATE, wrong)).reason is ResultReason.INVALID_FIELD


async def test_all_values_of_a_repeated_criterion_apply(scene: Scene):
    client = scene.client()
    one, both = await client.create(mask=4), await client.create(mask=12)
    masks = [attribute("Cryptographic Usage Mask", number(VALUE, bits)) for bits in (4, 8)]
    assert (await client.ask(Operation.LOCATE, masks[0])).ids == [one, both]
    assert (await client.ask(Operation.LOCATE, *masks)).ids == [both]
    seen = a_date("x-seen", START)
    await client.about(Operation.ADD_ATTRIBUTE, one, seen)
    assert (await client.ask(Operation.LOCATE, seen)).ids == [one]
    assert (await client.ask(Operation.LOCATE, seen, custom("x-seen", "never"))).ids == []


@pytest.mark.parametrize("major", [1, 2])
async def test_offset_beyond_every_object_finds_no_page(scene: Scene, major: int):
    client = scene.client(major=major, minor=4 if major == 1 else 1)
    for _ in range(2):
        await scene.client().create()
    for offset, limit in ((2**31 - 1, 2**31 - 1), (2**31 - 2, 1), (2**31 - 1, 0), (2, 1000)):
        answer = await client.ask(Operation.LOCATE, number(Tag.MAXIMUM_ITEMS, limit), number(Tag.OFFSET_ITEMS, offset))
        assert answer.ids == []
        assert answer.value(Tag.LOCATED_ITEMS) == 2
    assert (await client.ask(Operation.LOCATE, number(Tag.OFFSET_ITEMS, 2**31 - 1))).ids == []
