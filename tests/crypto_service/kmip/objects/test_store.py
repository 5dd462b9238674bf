"""Stored objects, their cache, and the clients that may see them."""

import asyncio
import threading

import pytest

from crypto_service.kmip.codec.enums import CryptographicAlgorithm, ObjectType, Operation, ResultReason, State
from crypto_service.kmip.codec.fields import choice, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.objects.attributes import for_new_object
from crypto_service.kmip.objects.key_material import new_symmetric_key
from crypto_service.kmip.objects.store import NewObject
from crypto_service.server.eager import start_eagerly
from database.postgres.change_feed import tenant_hash
from tests.crypto_service.kmip.scene import MOST_OBJECTS, VALUE, Scene, a_name, attribute, creation, custom


async def try_all_operations(client, object_id: str) -> dict:
    """Try every operation on an object; return the result of each attempt."""
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
async def test_object_of_another_caller_is_not_found_by_any_operation(scene: Scene, whose: str):
    owner = scene.client()
    object_id = await owner.activated(a_name("theirs"), custom("x-theirs", "1"))
    other_client = scene.client("billing") if whose == "another service" else scene.client(tenant_id=scene.other)
    before = await owner.about(Operation.GET_ATTRIBUTES, object_id)

    forbidden, unknown = (
        await try_all_operations(other_client, object_id),
        await try_all_operations(other_client, "00000000-never-made"),
    )
    assert {answer.reason for answer in forbidden.values()} == {ResultReason.ITEM_NOT_FOUND}
    items = {op: answer.item for op, answer in forbidden.items()}
    assert items == {op: answer.item for op, answer in unknown.items()}
    for criteria in [
        (),
        (a_name("theirs"),),
        (custom("x-theirs", "1"),),
        (attribute("Unique Identifier", text(Tag.ATTRIBUTE_VALUE, object_id)),),
    ]:
        assert (await other_client.ask(Operation.LOCATE, *criteria)).ids == []
    assert (await owner.about(Operation.GET_ATTRIBUTES, object_id)).item == before.item


@pytest.mark.parametrize("hostile", ["' or 1=1 --", "*", "%", "../object", "a" * 4000, "\0", "", "ünïcode", "a\nb"])
async def test_malformed_id_is_not_found_and_not_recorded(scene: Scene, hostile: str):
    answer = await scene.client().get(hostile)
    assert answer.reason is ResultReason.ITEM_NOT_FOUND
    assert scene.journal.entries[-1].subject == ""


async def test_material_is_stored_encrypted_and_bound_to_its_object(scene: Scene):
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


async def test_change_by_another_process_is_visible_after_its_notification(scene: Scene):
    here, there = scene.client(), scene.client(process=scene.two)
    object_id = await here.activated()
    assert (await there.get(object_id)).reason is None
    assert (await here.revoke(object_id, 2)).reason is None
    scene.two.changes.tell(tenant_hash(scene.other))
    assert (await there.get(object_id)).reason is None
    scene.two.changes.tell(tenant_hash(scene.tenant))
    assert (await there.get(object_id)).reason is ResultReason.PERMISSION_DENIED


async def test_activation_by_another_process_is_visible_before_its_notification(scene: Scene):
    here, there = scene.client(), scene.client(process=scene.two)
    object_id = await here.create()
    assert (await there.encrypt(object_id, b"data")).reason is ResultReason.PERMISSION_DENIED
    assert (await here.about(Operation.ACTIVATE, object_id)).reason is None
    assert (await there.encrypt(object_id, b"data")).reason is None


async def test_object_read_before_a_change_is_not_returned_later(scene: Scene):
    """The reader's transaction ends, the change is notified, and only then does the reader continue."""
    writer, reader = scene.client(), scene.client(process=scene.two)
    object_id = await writer.activated()
    await writer.get(object_id)
    _, rest = start_eagerly(reader.get(object_id))
    assert rest is not None
    await writer.revoke(object_id, 2)
    assert (await writer.get(object_id)).reason is ResultReason.PERMISSION_DENIED  # without a notification
    scene.two.changes.tell(tenant_hash(scene.tenant))
    assert (await reader.get(object_id)).reason is ResultReason.PERMISSION_DENIED
    await rest
    assert (await reader.get(object_id)).reason is ResultReason.PERMISSION_DENIED


async def test_concurrent_changes_are_all_kept(scene: Scene):
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


@pytest.mark.parametrize("second", ["creation", "change"])
async def test_concurrent_transactions_cannot_assign_one_name_twice(scene: Scene, second: str):
    client = scene.client(process=scene.two)
    other = await client.create()
    inserted, ends = threading.Event(), threading.Event()

    def event_of(_object_id: str) -> None:
        inserted.set()
        assert ends.wait(30)

    content, _ = new_symmetric_key(CryptographicAlgorithm.AES, 256)
    draft = NewObject(ObjectType.SYMMETRIC_KEY, for_new_object([a_name("wanted")], 4), content)
    first = asyncio.ensure_future(scene.one.objects.add(client.caller, event_of, draft))
    assert await asyncio.to_thread(inserted.wait, 30)
    request = creation(a_name("wanted"))
    if second == "change":
        request = Operation.ADD_ATTRIBUTE, text(Tag.UNIQUE_IDENTIFIER, other), a_name("wanted")
    refused = asyncio.ensure_future(client.ask(*request))
    waits = "select from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
    async with asyncio.timeout(30):
        with scene.base.field.administrator() as administrator:
            while not refused.done() and administrator.execute(waits).fetchone() is None:  # noqa: ASYNC110 - no signal
                await asyncio.sleep(0.01)
    ends.set()
    await first
    assert (await refused).reason is ResultReason.ILLEGAL_OPERATION
    assert (await client.ask(Operation.LOCATE, a_name("wanted"))).ids == [draft.object_id]


async def test_halves_of_a_key_pair_cannot_share_a_name(scene: Scene):
    client = scene.client()
    algorithm = attribute("Cryptographic Algorithm", choice(Tag.ATTRIBUTE_VALUE, CryptographicAlgorithm.ECDSA))
    common = structure(Tag.COMMON_TEMPLATE_ATTRIBUTE, algorithm, a_name("pair"))
    assert (await client.ask(Operation.CREATE_KEY_PAIR, common)).reason is ResultReason.ILLEGAL_OPERATION
    assert (await client.ask(Operation.LOCATE)).ids == []


async def test_concurrent_destroy_and_activate_never_leave_a_destroyed_key_active(scene: Scene):
    one, two = scene.client(), scene.client(process=scene.two)
    object_id = await one.create()
    await asyncio.gather(one.about(Operation.DESTROY, object_id), two.about(Operation.ACTIVATE, object_id))
    scene.one.changes.tell(tenant_hash(scene.tenant))
    state = await one.state(object_id)
    assert state in (State.ACTIVE, State.DESTROYED)
    if state == State.DESTROYED:
        assert (await two.about(Operation.ACTIVATE, object_id)).reason is ResultReason.ITEM_NOT_FOUND


async def test_name_is_unique_until_its_object_is_destroyed(scene: Scene):
    client = scene.client()
    first = await client.create(a_name("mine"))
    assert (await client.ask(*creation(a_name("mine")))).reason is ResultReason.ILLEGAL_OPERATION
    assert (await scene.client("billing").ask(*creation(a_name("mine")))).reason is None
    other = await client.create()
    assert (await client.about(Operation.ADD_ATTRIBUTE, other, a_name("mine"))).reason is ResultReason.ILLEGAL_OPERATION
    await client.about(Operation.DESTROY, first)
    assert (await client.ask(*creation(a_name("mine")))).reason is None


async def test_destroyed_objects_are_not_located(scene: Scene):
    client = scene.client()
    first, second = await client.create(), await client.create()
    await client.about(Operation.DESTROY, first)
    with scene.base.crypto.tenant_tx(scene.tenant) as tx:
        assert [row.object_id for row in tx.objects.of_service("orders")] == [second]
    assert (await client.ask(Operation.LOCATE)).ids == [second]


async def test_service_has_a_limited_number_of_objects(scene: Scene):
    """Also pairs and successors; destroyed objects do not count, and other services have their own limit."""
    client = scene.client()
    first = await client.create()
    for _ in range(MOST_OBJECTS - 2):
        await client.create()
    pair = structure(
        Tag.COMMON_TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, 6)),
        attribute("Cryptographic Length", number(VALUE, 256)),
        attribute("Cryptographic Usage Mask", number(VALUE, 3)),
    )
    refused = await client.ask(Operation.CREATE_KEY_PAIR, pair)
    assert (refused.reason, refused.message) == (
        ResultReason.PERMISSION_DENIED,
        f"the service has {MOST_OBJECTS} objects, the most that are permitted",
    )
    assert scene.journal.refusals() == [(scene.tenant, "create", "object_limit_reached")]
    await client.create()
    for more in (creation(), (Operation.REKEY, text(Tag.UNIQUE_IDENTIFIER, first))):
        assert (await client.ask(*more)).reason is ResultReason.PERMISSION_DENIED
    assert len((await client.ask(Operation.LOCATE)).ids) == MOST_OBJECTS
    await scene.client("billing").create()
    await client.about(Operation.DESTROY, first)
    await client.create()


async def test_concurrent_gets_all_succeed_despite_a_cancellation(scene: Scene):
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
