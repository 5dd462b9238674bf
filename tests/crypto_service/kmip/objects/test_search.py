"""Locate by conditions that the database decides: the same result as the comparison of every object's attributes."""

import itertools
from collections.abc import Sequence

from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import choice, flag, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import managed_object
from crypto_service.kmip.objects.managed_object import ManagedObject
from crypto_service.kmip.operations import locate
from tests.crypto_service.kmip.scene import START, VALUE, Client, Scene, a_date, a_name, attribute, custom

OPAQUE = structure(
    Tag.OPAQUE_OBJECT, choice(Tag.OPAQUE_DATA_TYPE, 0x80000001), octets(Tag.OPAQUE_DATA_VALUE, b"opaque")
)


def a_link(kind: int, identifier: str) -> Item:
    return attribute(
        "Link", structure(VALUE, choice(Tag.LINK_TYPE, kind), text(Tag.LINKED_OBJECT_IDENTIFIER, identifier))
    )


def application(space: str, data: str) -> Item:
    parts = text(Tag.APPLICATION_NAMESPACE, space), text(Tag.APPLICATION_DATA, data)
    return attribute("Application Specific Information", structure(VALUE, *parts))


CRITERIA = [
    attribute("Object Type", choice(VALUE, 2)),
    attribute("Object Type", choice(VALUE, 8)),
    attribute("Object Type", choice(VALUE, 0xFFFFFFFF)),
    attribute("State", choice(VALUE, 1)),
    attribute("State", choice(VALUE, 2)),
    attribute("State", choice(VALUE, 3)),
    attribute("State", choice(VALUE, 4)),
    attribute("Cryptographic Length", number(VALUE, 256)),
    attribute("Cryptographic Algorithm", choice(VALUE, 3)),
    attribute("Cryptographic Usage Mask", number(VALUE, 4)),
    attribute("Cryptographic Usage Mask", number(VALUE, 12)),
    attribute("Cryptographic Usage Mask", number(VALUE, 0)),
    custom("x-Owner", "one"),
    custom("x-Owner", "two"),
    custom("x-Place", "one"),
    attribute("x-Owner", number(VALUE, 1)),
    attribute("Object Group", text(VALUE, "group")),
    a_link(0x101, "first"),
    a_link(0x102, "second"),
    a_link(0x101, "second"),
    application("ssl", "one"),
    application("ssl", "two"),
    a_date("Activation Date", START - 10),
    a_date("Activation Date", START + 20),
    a_date("Deactivation Date", START + 10),
    attribute("Fresh", flag(VALUE, value=True)),
    a_name("key-3"),
]
MORE: list[tuple[Item, ...]] = [
    (),
    (choice(Tag.OBJECT_GROUP_MEMBER, 1),),
    *((number(Tag.STORAGE_STATUS_MASK, mask),) for mask in (0, 1, 2, 3)),
    (a_date("Activation Date", START - 10), a_date("Activation Date", START + 10)),
    (custom("x-Owner", "one"), custom("x-Owner", "two")),
    (attribute("Object Type", choice(VALUE, 2)), attribute("Object Type", choice(VALUE, 8))),
]


async def furnish(client: Client) -> None:
    """Create objects of many kinds and states."""
    made = [
        await client.create(a_name(f"key-{n}"), *more, mask=(4, 8, 12)[n % 3])
        for n, more in enumerate(
            [
                (),
                (custom("x-Owner", "one"),),
                (custom("x-Owner", "one"), custom("x-Owner", "two")),
                (custom("x-Owner", "two"), attribute("Object Group", text(VALUE, "group"))),
                (custom("x-Place", "one"), attribute("x-Owner", number(VALUE, 1))),
                (a_link(0x101, "first"),),
                (a_link(0x101, "first"), a_link(0x102, "second")),
                (application("ssl", "one"), application("tls", "two")),
                (a_date("Activation Date", START - 10),),
                (a_date("Activation Date", START - 10), a_date("Deactivation Date", START - 5)),
                (a_date("Activation Date", START + 20), a_date("Deactivation Date", START + 30)),
                (a_date("Activation Date", START - 20), a_date("Deactivation Date", START + 10)),
            ]
        )
    ]
    await client.ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, 8), OPAQUE)
    await client.about(Operation.ACTIVATE, made[0])
    await client.revoke(made[0], 2)
    await client.about(Operation.ACTIVATE, made[1])
    await client.get(made[1])
    await client.about(Operation.ARCHIVE, made[2])
    await client.about(Operation.DESTROY, made[3])
    await client.about(Operation.ADD_ATTRIBUTE, made[4], custom("x-Owner", "two"))
    await client.about(
        Operation.DELETE_ATTRIBUTE, made[7], text(Tag.ATTRIBUTE_NAME, "Application Specific Information")
    )


def compared(now: int, objects: Sequence[ManagedObject], payload: Sequence[Item]) -> list[str]:
    """Return what the comparison of all attributes finds."""
    request = structure(Tag.REQUEST_PAYLOAD, *payload)
    criteria = locate._criteria(request, 4)
    mask = next((item.value for item in payload if item.tag == Tag.STORAGE_STATUS_MASK), 1)
    fresh = any(item.tag == Tag.OBJECT_GROUP_MEMBER for item in payload)
    wanted = locate._matcher(now, criteria, mask, fresh=fresh)
    return [managed.row.object_id for managed in objects if wanted(managed)]


async def test_locate_finds_what_the_comparison_of_all_attributes_finds(scene: Scene):
    client = scene.client()
    await furnish(client)
    await furnish(scene.client("billing"))
    payloads = [(*pair, *more) for pair in itertools.combinations(CRITERIA, 1) for more in MORE]
    payloads += list(itertools.combinations(CRITERIA, 2))
    found = 0
    with scene.base.crypto.tenant_tx(scene.tenant) as tx:
        objects = [managed_object.from_row(row) for row in tx.objects.of_service("orders")]
    for now in (START, START + 25):
        scene.clock.now = now
        for payload in payloads:
            expected = compared(now, objects, payload)
            answer = await client.ask(Operation.LOCATE, *payload)
            assert answer.ids == expected, payload
            found += len(expected)
    assert found > 1_000


async def test_objects_of_an_earlier_release_are_indexed_by_the_first_search(scene: Scene):
    client = scene.client()
    one, other = await client.create(custom("x-Owner", "one")), await client.create()
    with scene.base.field.administrator() as admin:
        admin.execute("update okcm.managed_object set search_version = 0, terms = '{}' where object_id = %s", [one])
    assert (await client.ask(Operation.LOCATE, custom("x-Owner", "one"))).ids == [one]
    with scene.base.crypto.tenant_tx(scene.tenant) as tx:
        assert tx.objects.not_indexed("orders") == []
    assert (await client.ask(Operation.LOCATE)).ids == [one, other]
    assert (await client.state(one)) == 1


async def test_locate_returns_pages_and_the_number_of_matches(scene: Scene):
    client = scene.client()
    made = [await client.create() for _ in range(7)]
    for offset, limit in ((0, 3), (3, 3), (6, 3), (7, 3), (100, 3), (0, 0)):
        page = number(Tag.OFFSET_ITEMS, offset), number(Tag.MAXIMUM_ITEMS, limit)
        answer = await client.ask(Operation.LOCATE, *page)
        assert answer.ids == made[offset : offset + limit]
        assert answer.value(Tag.LOCATED_ITEMS) == 7
