"""The attributes Sensitive, Always Sensitive, Extractable and Never Extractable, which every object of 1.4 has."""

import pytest

from crypto_service.kmip.codec.enums import DerivationMethod, ObjectType, Operation, ResultReason
from crypto_service.kmip.codec.fields import choice, flag, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, attribute, creation

NAMES = ("Sensitive", "Always Sensitive", "Extractable", "Never Extractable")
DERIVE = 0x200


def boolean(name: str, *, value: bool) -> Item:
    return attribute(name, flag(VALUE, value=value))


async def exposure(client: Client, object_id: str) -> tuple[bool, ...]:
    asked = (text(Tag.ATTRIBUTE_NAME, name) for name in NAMES)
    found = (await client.about(Operation.GET_ATTRIBUTES, object_id, *asked)).attributes
    return tuple(found[name] for name in NAMES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), (False, False, True, False)),
        ((boolean("Sensitive", value=True),), (True, True, True, False)),
        ((boolean("Extractable", value=False),), (False, False, False, True)),
        ((boolean("Sensitive", value=False), boolean("Extractable", value=True)), (False, False, True, False)),
    ],
)
async def test_every_new_object_has_all_four(scene: Scene, given: tuple[Item, ...], expected: tuple[bool, ...]):
    client = scene.client()
    object_id = await client.create(*given)
    assert await exposure(client, object_id) == expected
    listed = (await client.about(Operation.GET_ATTRIBUTE_LIST, object_id)).payload.all(Tag.ATTRIBUTE_NAME)
    assert set(NAMES) <= {item.value for item in listed}
    opaque = structure(Tag.OPAQUE_OBJECT, choice(Tag.OPAQUE_DATA_TYPE, 1), octets(Tag.OPAQUE_DATA_VALUE, b"data"))
    template = structure(Tag.TEMPLATE_ATTRIBUTE, *given)
    kind = choice(Tag.OBJECT_TYPE, ObjectType.OPAQUE_OBJECT)
    registered = (await client.ask(Operation.REGISTER, kind, template, opaque)).object_id
    assert await exposure(client, registered) == expected


async def test_later_restriction_is_permanent_but_not_always(scene: Scene):
    client = scene.client()
    object_id = await client.create()
    for name, restricted in (("Sensitive", True), ("Extractable", False)):
        add, modify = boolean(name, value=restricted), boolean(name, value=not restricted)
        added = await client.about(Operation.ADD_ATTRIBUTE, object_id, add)
        assert added.reason is ResultReason.ILLEGAL_OPERATION  # the object has it already
        assert (await client.about(Operation.MODIFY_ATTRIBUTE, object_id, add)).reason is None
        refused = await client.about(Operation.MODIFY_ATTRIBUTE, object_id, modify)
        assert refused.reason is ResultReason.PERMISSION_DENIED
    assert await exposure(client, object_id) == (True, False, False, False)
    for name in ("Always Sensitive", "Never Extractable"):
        forged = await client.about(Operation.MODIFY_ATTRIBUTE, object_id, boolean(name, value=True))
        assert forged.reason is ResultReason.PERMISSION_DENIED


async def test_locate_finds_objects_by_all_four(scene: Scene):
    client = scene.client()
    plain = await client.create()
    hidden = await client.create(boolean("Sensitive", value=True), boolean("Extractable", value=False))
    for name in NAMES:
        set_on = [hidden] if name != "Extractable" else [plain]
        assert (await client.ask(Operation.LOCATE, boolean(name, value=True))).ids == set_on, name
    assert (await client.ask(Operation.LOCATE, boolean("Extractable", value=False))).ids == [hidden]
    older = scene.client(minor=3)
    assert (await older.ask(Operation.LOCATE, boolean("Sensitive", value=True))).reason is ResultReason.INVALID_FIELD


async def test_rekey_restricts_the_new_key_from_its_creation(scene: Scene):
    client = scene.client()
    old = await client.create()
    await client.about(Operation.MODIFY_ATTRIBUTE, old, boolean("Sensitive", value=True))
    new = (await client.about(Operation.REKEY, old)).object_id
    assert await exposure(client, old) == (True, False, True, False)
    assert await exposure(client, new) == (True, True, True, False)


@pytest.mark.parametrize(
    ("given", "later", "expected"),
    [
        ((), (), (True, False, True, False)),  # the base key could be read, and so the derived one computed
        ((boolean("Sensitive", value=True),), (), (True, True, True, False)),
        ((), (boolean("Extractable", value=False),), (True, False, False, False)),
        ((boolean("Extractable", value=False),), (), (True, False, False, True)),
    ],
)
async def test_derived_key_has_the_restrictions_of_its_base_and_its_request(
    scene: Scene, given: tuple[Item, ...], later: tuple[Item, ...], expected: tuple[bool, ...]
):
    client = scene.client()
    base_id = await client.activated(*given, mask=DERIVE)
    for item in later:
        await client.about(Operation.MODIFY_ATTRIBUTE, base_id, item)
    template = creation(boolean("Sensitive", value=True))[2]
    parameters = structure(
        Tag.DERIVATION_PARAMETERS,
        structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, 6)),
        octets(Tag.DERIVATION_DATA, b"purpose"),
    )
    kind, method = choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY), DerivationMethod.HMAC
    request = kind, text(Tag.UNIQUE_IDENTIFIER, base_id), choice(Tag.DERIVATION_METHOD, method), parameters, template
    derived = (await client.ask(Operation.DERIVE_KEY, *request)).object_id
    assert await exposure(client, derived) == expected


async def test_object_stored_without_them_has_defaults_and_no_claim_about_its_past(scene: Scene):
    client = scene.client()
    object_id = await client.create(boolean("Sensitive", value=True))
    with scene.base.field.administrator() as administrator:
        query = "select attributes from okcm.managed_object where object_id = %s"
        (stored,) = administrator.execute(query, [object_id]).fetchone()
        kept = named.without(named.decode(bytes(stored)), *NAMES[1:])
        change = "update okcm.managed_object set attributes = %s where object_id = %s"
        administrator.execute(change, [named.encode(kept), object_id])
    scene.one.changes.tell(None)
    assert await exposure(client, object_id) == (True, False, True, False)
    assert (await client.ask(Operation.LOCATE, boolean("Extractable", value=True))).ids == [object_id]
    assert (
        await client.about(Operation.MODIFY_ATTRIBUTE, object_id, boolean("Extractable", value=False))
    ).reason is None
    assert await exposure(client, object_id) == (True, False, False, False)
