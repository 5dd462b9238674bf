"""What is kept, what is remembered of it, and who may see it."""

import asyncio

import pytest

from crypto_service.kmip.codec.enums import Operation, ResultReason, State
from crypto_service.kmip.codec.fields import choice, long, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.server.eager import Completed, start_eagerly
from database.postgres.notify import tenant_hash
from tests.crypto_service.kmip.scene import Scene, a_name, attribute, creation, custom


async def attack(client, object_id: str) -> dict:
    """Try everything on an object; return what each attempt came to."""
    more = {
        Operation.REVOKE: (structure(Tag.REVOCATION_REASON, choice(Tag.REVOCATION_REASON_CODE, 2)),),
        Operation.GET_USAGE_ALLOCATION: (long(Tag.USAGE_LIMITS_COUNT, 1),),
        Operation.ADD_ATTRIBUTE: (custom("x-mine", "1"),),
        Operation.MODIFY_ATTRIBUTE: (custom("x-theirs", "1"),),
        Operation.DELETE_ATTRIBUTE: (text(Tag.ATTRIBUTE_NAME, "x-theirs"),),
        Operation.ENCRYPT: (octets(Tag.DATA, b"data"),),
        Operation.DECRYPT: (octets(Tag.DATA, b"data"),),
        Operation.MAC: (octets(Tag.DATA, b"data"),),
        Operation.MAC_VERIFY: (octets(Tag.DATA, b"data"), octets(Tag.MAC_DATA, b"mac")),
    }
    bare = (
        *(Operation.GET, Operation.GET_ATTRIBUTES, Operation.GET_ATTRIBUTE_LIST, Operation.ACTIVATE, Operation.DESTROY),
        *(Operation.ARCHIVE, Operation.RECOVER, Operation.REKEY, Operation.CHECK, Operation.OBTAIN_LEASE),
    )
    return {op: await client.about(op, object_id, *parts) for op, parts in (dict.fromkeys(bare, ()) | more).items()}


@pytest.mark.parametrize("whose", ["another service", "another tenant"])
async def test_the_object_of_another_is_not_there_for_any_operation(scene: Scene, whose: str):
    owner = scene.client()
    object_id = await owner.activated(a_name("theirs"), custom("x-theirs", "1"))
    stranger = scene.client("billing") if whose == "another service" else scene.client(tenant_id=scene.other)
    before = await owner.about(Operation.GET_ATTRIBUTES, object_id)

    theirs, nobodys = await attack(stranger, object_id), await attack(stranger, "00000000-never-made")
    assert {answer.reason for answer in theirs.values()} == {ResultReason.ITEM_NOT_FOUND}
    told = {op: answer.item for op, answer in theirs.items()}
    assert told == {op: answer.item for op, answer in nobodys.items()}
    for criteria in [
        (),
        (a_name("theirs"),),
        (custom("x-theirs", "1"),),
        (attribute("Unique Identifier", text(Tag.ATTRIBUTE_VALUE, object_id)),),
    ]:
        assert (await stranger.ask(Operation.LOCATE, *criteria)).ids == []
    assert (await owner.about(Operation.GET_ATTRIBUTES, object_id)).item == before.item


@pytest.mark.parametrize("hostile", ["' or 1=1 --", "*", "%", "../object", "a" * 4000, "\0", "", "ünïcode", "a\nb"])
async def test_an_id_of_another_form_is_not_looked_for_and_not_written_down(scene: Scene, hostile: str):
    answer = await scene.client().get(hostile)
    assert answer.reason is ResultReason.ITEM_NOT_FOUND
    assert scene.journal.entries[-1].subject == ""


async def test_material_is_stored_only_sealed_and_for_its_object(scene: Scene):
    client = scene.client()
    one, two = await client.create(), await client.create()
    material = (await client.get(one)).material
    with scene.base.field.administrator() as administrator:
        rows = administrator.execute(
            "select object_id || encode(attributes, 'hex') || encode(material, 'hex') || names::text"
            " from okcm.managed_object where object_id = %s",
            [one],
        ).fetchall()
        administrator.execute(
            "update okcm.managed_object set material ="
            " (select material from okcm.managed_object where object_id = %s) where object_id = %s",
            [one, two],
        )
    assert len(rows) == 1
    assert material.hex() not in rows[0][0]
    scene.one.changes.tell(None)
    assert (await client.get(two)).reason is ResultReason.CRYPTOGRAPHIC_FAILURE


async def test_a_change_elsewhere_is_seen_as_soon_as_word_of_it_comes(scene: Scene):
    here, there = scene.client(), scene.client(process=scene.two)
    object_id = await here.activated()
    assert (await there.get(object_id)).reason is None
    assert (await here.revoke(object_id, 2)).reason is None
    scene.two.changes.tell(tenant_hash(scene.other))
    assert (await there.get(object_id)).reason is None
    scene.two.changes.tell(tenant_hash(scene.tenant))
    assert (await there.get(object_id)).reason is ResultReason.PERMISSION_DENIED


async def test_what_was_read_before_a_change_is_not_returned_to_later_requests(scene: Scene):
    """The reader's transaction is over, word of the change comes, and only then does the reader go on."""
    writer, reader = scene.client(), scene.client(process=scene.two)
    object_id = await writer.activated()
    await writer.get(object_id)
    early = start_eagerly(reader.get(object_id))
    assert not isinstance(early, Completed)
    await writer.revoke(object_id, 2)
    assert (await writer.get(object_id)).reason is ResultReason.PERMISSION_DENIED  # it needs no word of its own change
    scene.two.changes.tell(tenant_hash(scene.tenant))
    assert (await reader.get(object_id)).reason is ResultReason.PERMISSION_DENIED
    await early
    assert (await reader.get(object_id)).reason is ResultReason.PERMISSION_DENIED


async def test_of_many_who_change_at_once_none_is_lost(scene: Scene):
    clients = [scene.client(process=process) for process in (scene.one, scene.two) * 3]
    object_id = await clients[0].create()
    answers = await asyncio.gather(
        *(client.about(Operation.ADD_ATTRIBUTE, object_id, custom("x-n", str(n))) for n, client in enumerate(clients))
    )
    assert [answer.reason for answer in answers] == [None] * 6
    scene.one.changes.tell(tenant_hash(scene.tenant))
    shown = (await clients[0].about(Operation.GET_ATTRIBUTES, object_id, text(Tag.ATTRIBUTE_NAME, "x-n"))).payload
    values = {item.first(Tag.ATTRIBUTE_VALUE).value for item in shown.all(Tag.ATTRIBUTE)}
    assert values == {"0", "1", "2", "3", "4", "5"}


async def test_of_two_who_destroy_and_activate_at_once_the_key_never_lives(scene: Scene):
    one, two = scene.client(), scene.client(process=scene.two)
    object_id = await one.create()
    await asyncio.gather(one.about(Operation.DESTROY, object_id), two.about(Operation.ACTIVATE, object_id))
    scene.one.changes.tell(tenant_hash(scene.tenant))
    state = await one.state(object_id)
    assert state in (State.ACTIVE, State.DESTROYED)
    if state == State.DESTROYED:
        assert (await two.about(Operation.ACTIVATE, object_id)).reason is ResultReason.ITEM_NOT_FOUND


async def test_a_name_belongs_to_one_object_until_that_is_destroyed(scene: Scene):
    client = scene.client()
    first = await client.create(a_name("mine"))
    assert (await client.ask(*creation(a_name("mine")))).reason is ResultReason.ILLEGAL_OPERATION
    assert (await scene.client("billing").ask(*creation(a_name("mine")))).reason is None
    other = await client.create()
    assert (await client.about(Operation.ADD_ATTRIBUTE, other, a_name("mine"))).reason is ResultReason.ILLEGAL_OPERATION
    await client.about(Operation.DESTROY, first)
    assert (await client.ask(*creation(a_name("mine")))).reason is None


async def test_destroyed_objects_do_not_crowd_out_the_living(scene: Scene):
    client = scene.client()
    first, second = await client.create(), await client.create()
    await client.about(Operation.DESTROY, first)
    with scene.base.crypto.tenant_tx(scene.tenant) as tx:
        assert [row.object_id for row in tx.objects.of_service("orders", limit=1)] == [second]
    assert (await client.ask(Operation.LOCATE)).ids == [second]


async def test_many_who_ask_for_one_object_at_once_all_get_it_also_when_one_is_cancelled(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    for _ in range(2):  # fresh, and then not
        scene.one.changes.tell(None)
        gone, *stay = (asyncio.ensure_future(client.get(object_id)) for _ in range(90))
        await asyncio.sleep(0)
        gone.cancel()
        assert {answer.reason for answer in await asyncio.gather(*stay)} == {None}
        with pytest.raises(asyncio.CancelledError):
            await gone
