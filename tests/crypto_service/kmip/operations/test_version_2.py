"""Requests of KMIP 2.0 and 2.1: attributes by tags, the operations of 2.x, and more exact result reasons."""

import pytest
import structlog

from core.services import CryptoOperation
from crypto_service.kmip.codec.enums import (
    AdjustmentType,
    BlockCipherMode,
    KeyFormatType,
    LinkType,
    ObjectType,
    Operation,
    PaddingMethod,
    ResultReason,
    RevocationReasonCode,
    State,
)
from crypto_service.kmip.codec.fields import choice, flag, interval, long, moment, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, attribute, custom

R = ResultReason
ENCRYPT, DECRYPT = 4, 8
AES = (choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 3), number(Tag.CRYPTOGRAPHIC_LENGTH, 256))
SYMMETRIC = choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY)


@pytest.fixture(params=[0, 1])
def client(scene: Scene, request: pytest.FixtureRequest) -> Client:
    return scene.client(minor=request.param, major=2)


def mask(uses: int = ENCRYPT | DECRYPT) -> Item:
    return number(Tag.CRYPTOGRAPHIC_USAGE_MASK, uses)


def name(value: str) -> Item:
    return structure(Tag.NAME, text(Tag.NAME_VALUE, value), choice(Tag.NAME_TYPE, 1))


def vendor(whose: str, called: str, value: Item) -> Item:
    return structure(Tag.ATTRIBUTE, text(Tag.VENDOR_IDENTIFICATION, whose), text(Tag.ATTRIBUTE_NAME, called), value)


def attributes(*items: Item) -> Item:
    return structure(Tag.ATTRIBUTES, *items)


def reference(*tags: int) -> tuple[Item, ...]:
    return tuple(choice(Tag.ATTRIBUTE_REFERENCE, tag) for tag in tags)


def vendor_reference(whose: str, called: str) -> Item:
    return structure(Tag.ATTRIBUTE_REFERENCE, text(Tag.VENDOR_IDENTIFICATION, whose), text(Tag.ATTRIBUTE_NAME, called))


def new(item: Item) -> Item:
    return structure(Tag.NEW_ATTRIBUTE, item)


def current(item: Item) -> Item:
    return structure(Tag.CURRENT_ATTRIBUTE, item)


async def create(client: Client, *more: Item) -> str:
    return (await client.ask(Operation.CREATE, SYMMETRIC, attributes(*AES, mask(), *more))).object_id


async def read(client: Client, object_id: str, *references: Item) -> tuple[Item, ...]:
    answer = await client.about(Operation.GET_ATTRIBUTES, object_id, *references)
    (found,) = answer.payload.all(Tag.ATTRIBUTES)
    assert list(answer.payload.children()) == [text(Tag.UNIQUE_IDENTIFIER, object_id), found]
    return found.children()


async def test_key_is_created_found_and_returned(client: Client):
    object_id = await create(client, name("first"), text(Tag.OBJECT_GROUP, "blue"))
    for sought in (name("first"), text(Tag.OBJECT_GROUP, "blue"), choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 3)):
        assert (await client.ask(Operation.LOCATE, attributes(sought))).ids == [object_id]
    assert (await client.ask(Operation.LOCATE, attributes(name("second")))).ids == []
    got = await client.get(object_id)
    assert len(got.material) == 32
    assert got.payload.first(Tag.OBJECT_TYPE) == SYMMETRIC


async def test_locate_returns_the_newest_object_first(client: Client, scene: Scene):
    """KMIP 2.1, section 6.1.28; 1.x defines no order, and its clients get the oldest first as before."""
    made = [await create(client, vendor("x", "site", text(Tag.ATTRIBUTE_VALUE, "Bern"))) for _ in range(4)]
    newest = made[::-1]
    by_value = attributes(vendor("x", "site", text(Tag.ATTRIBUTE_VALUE, "Bern")))
    compared = attributes(choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.RAW))
    for criteria in ((), (by_value,), (compared,)):
        assert (await client.ask(Operation.LOCATE, *criteria)).ids == newest
        page = number(Tag.MAXIMUM_ITEMS, 2), number(Tag.OFFSET_ITEMS, 1)
        answer = await client.ask(Operation.LOCATE, *page, *criteria)
        assert (answer.ids, answer.value(Tag.LOCATED_ITEMS)) == (newest[1:3], 4)
    assert (await scene.client().ask(Operation.LOCATE)).ids == made


async def test_attributes_have_their_own_tags_and_no_index(client: Client, scene: Scene):
    object_id = await create(client, name("first"), moment(Tag.ACTIVATION_DATE, scene.clock.now))
    wanted = (Tag.STATE, Tag.CRYPTOGRAPHIC_LENGTH, Tag.NAME, Tag.ACTIVATION_DATE, Tag.KEY_FORMAT_TYPE, Tag.LINK)
    assert await read(client, object_id, *reference(*wanted)) == (
        choice(Tag.STATE, State.ACTIVE),
        number(Tag.CRYPTOGRAPHIC_LENGTH, 256),
        name("first"),
        moment(Tag.ACTIVATION_DATE, scene.clock.now),
        choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.RAW),
    )
    everything = await read(client, object_id)
    listed = await client.about(Operation.GET_ATTRIBUTE_LIST, object_id)
    assert {item.value for item in listed.payload.all(Tag.ATTRIBUTE_REFERENCE)} == {item.tag for item in everything}
    assert Tag.OPERATION_POLICY_NAME not in {item.tag for item in everything}
    assert await read(client, object_id, *reference(Tag.LINK)) == ()


async def test_both_major_versions_read_the_same_attributes(client: Client, scene: Scene):
    older = scene.client()
    object_id = await create(client, vendor("x", "site", text(VALUE, "Bern")), vendor("EDB", "site", text(VALUE, "a")))
    assert (await older.ask(Operation.LOCATE, custom("x-site", "Bern"))).ids == [object_id]
    await older.about(Operation.ADD_ATTRIBUTE, object_id, attribute("Description", text(VALUE, "of 1.4")))
    assert await read(client, object_id, *reference(Tag.DESCRIPTION)) == (text(Tag.DESCRIPTION, "of 1.4"),)
    for whose, value in (("x", "Bern"), ("EDB", "a")):
        found = await read(client, object_id, vendor_reference(whose, "site"))
        assert found == (vendor(whose, "site", text(VALUE, value)),)
    listed = (await client.about(Operation.GET_ATTRIBUTE_LIST, object_id)).payload.children()
    assert {vendor_reference("x", "site"), vendor_reference("EDB", "site")} <= set(listed)
    hidden = (await older.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    assert "Key Format Type" not in hidden


async def test_attributes_are_added_changed_and_deleted_by_value(client: Client):
    object_id = await create(client, name("a"))
    only_the_id = [text(Tag.UNIQUE_IDENTIFIER, object_id)]
    for operation, *fields in (
        (Operation.ADD_ATTRIBUTE, new(name("b"))),
        (Operation.MODIFY_ATTRIBUTE, current(name("b")), new(name("c"))),
        (Operation.ADD_ATTRIBUTE, new(vendor("x", "site", text(VALUE, "Bern")))),
        (Operation.MODIFY_ATTRIBUTE, new(vendor("x", "site", text(VALUE, "Basel")))),
        (Operation.DELETE_ATTRIBUTE, current(name("a"))),
    ):
        assert list((await client.about(operation, object_id, *fields)).payload.children()) == only_the_id
    wanted = (*reference(Tag.NAME), vendor_reference("x", "site"))
    assert await read(client, object_id, *wanted) == (name("c"), vendor("x", "site", text(VALUE, "Basel")))
    await client.about(Operation.DELETE_ATTRIBUTE, object_id, vendor_reference("x", "site"))
    await client.about(Operation.DELETE_ATTRIBUTE, object_id, *reference(Tag.NAME))
    assert await read(client, object_id, *wanted) == ()


async def test_reference_without_a_value_deletes_all_instances(client: Client, scene: Scene):
    of_vendor = [vendor("x", "n", number(VALUE, value)) for value in (5, 70, 90)]
    object_id = await create(client, name("a"), name("b"), name("c"), text(Tag.OBJECT_GROUP, "blue"), *of_vendor)
    for one, others in ((*reference(Tag.NAME), of_vendor), (vendor_reference("x", "n"), [])):
        assert (await client.about(Operation.DELETE_ATTRIBUTE, object_id, one)).reason is None
        kept = await read(client, object_id, *reference(Tag.NAME, Tag.OBJECT_GROUP), vendor_reference("x", "n"))
        assert kept == (text(Tag.OBJECT_GROUP, "blue"), *others)
        again = await client.about(Operation.DELETE_ATTRIBUTE, object_id, one)
        assert again.reason is R.ATTRIBUTE_NOT_FOUND
    assert (await client.ask(Operation.LOCATE, attributes(name("a")))).ids == []
    older = scene.client()
    names = [attribute("Name", structure(VALUE, *name(called).children())) for called in "de"]
    for added in names:
        await older.about(Operation.ADD_ATTRIBUTE, object_id, added)
    await older.about(Operation.DELETE_ATTRIBUTE, object_id, text(Tag.ATTRIBUTE_NAME, "Name"))
    assert await read(client, object_id, *reference(Tag.NAME)) == (name("e"),)


async def test_change_of_one_among_several_instances_needs_its_value(client: Client):
    values = tuple(vendor("x", "n", number(VALUE, value)) for value in (5, 70, 90))
    object_id = await create(client, *values)
    of_vendor = vendor_reference("x", "n")
    for operation, *fields in (
        (Operation.ADJUST_ATTRIBUTE, of_vendor, choice(Tag.ADJUSTMENT_TYPE, AdjustmentType.INCREMENT)),
        (Operation.MODIFY_ATTRIBUTE, new(vendor("x", "n", number(VALUE, 6)))),
        (Operation.SET_ATTRIBUTE, new(vendor("x", "n", number(VALUE, 6)))),
    ):
        assert (await client.about(operation, object_id, *fields)).reason is R.MULTI_VALUED_ATTRIBUTE
        assert await read(client, object_id, of_vendor) == values


async def test_set_attribute_adds_or_replaces_one_value(client: Client):
    object_id = await create(client)
    for value in ("first", "second"):
        answer = await client.about(Operation.SET_ATTRIBUTE, object_id, new(text(Tag.DESCRIPTION, value)))
        assert answer.reason is None
        assert await read(client, object_id, *reference(Tag.DESCRIPTION)) == (text(Tag.DESCRIPTION, value),)
    refused = await client.about(Operation.SET_ATTRIBUTE, object_id, new(name("one of several")))
    assert refused.reason is R.MULTI_VALUED_ATTRIBUTE
    assert (await client.about(Operation.SET_ATTRIBUTE, object_id, new(mask(1)))).reason is R.ATTRIBUTE_READ_ONLY


def adjustment(tag: int, kind: AdjustmentType, *by: Item) -> tuple[Item, ...]:
    return (*reference(tag), choice(Tag.ADJUSTMENT_TYPE, kind), *by)


async def test_adjust_attribute_changes_a_number_a_date_or_a_boolean(client: Client, scene: Scene):
    later = scene.clock.now + 3600
    object_id = await create(client, moment(Tag.DEACTIVATION_DATE, later), vendor("x", "n", number(VALUE, 5)))
    of_vendor = vendor_reference("x", "n")
    for fields, wanted in (
        (adjustment(Tag.DEACTIVATION_DATE, AdjustmentType.INCREMENT), moment(Tag.DEACTIVATION_DATE, later + 1)),
        (
            adjustment(Tag.DEACTIVATION_DATE, AdjustmentType.DECREMENT, number(Tag.ADJUSTMENT_VALUE, 11)),
            moment(Tag.DEACTIVATION_DATE, later - 10),
        ),
        (adjustment(Tag.EXTRACTABLE, AdjustmentType.NEGATE), flag(Tag.EXTRACTABLE, value=False)),
        (
            (of_vendor, choice(Tag.ADJUSTMENT_TYPE, AdjustmentType.INCREMENT), number(Tag.ADJUSTMENT_VALUE, 2)),
            vendor("x", "n", number(VALUE, 7)),
        ),
    ):
        assert (await client.about(Operation.ADJUST_ATTRIBUTE, object_id, *fields)).reason is None
        assert await read(client, object_id, fields[0]) == (wanted,)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (adjustment(Tag.EXTRACTABLE, AdjustmentType.INCREMENT), R.INVALID_FIELD),
        (adjustment(Tag.CRYPTOGRAPHIC_LENGTH, AdjustmentType.NEGATE), R.INVALID_FIELD),
        (adjustment(Tag.CRYPTOGRAPHIC_LENGTH, AdjustmentType.INCREMENT), R.ATTRIBUTE_READ_ONLY),
        (adjustment(Tag.DESCRIPTION, AdjustmentType.INCREMENT), R.ATTRIBUTE_NOT_FOUND),
        (
            adjustment(Tag.CRYPTOGRAPHIC_LENGTH, AdjustmentType.INCREMENT, number(Tag.ADJUSTMENT_VALUE, 2**31 - 1)),
            R.NUMERIC_RANGE,
        ),
        (
            adjustment(Tag.CRYPTOGRAPHIC_LENGTH, AdjustmentType.INCREMENT, text(Tag.ADJUSTMENT_VALUE, "1")),
            R.INVALID_MESSAGE,
        ),
        (adjustment(Tag.EXTRACTABLE, 9), R.INVALID_FIELD),
        (reference(Tag.EXTRACTABLE), R.MISSING_DATA),
    ],
)
async def test_impossible_adjustment_is_rejected(scene: Scene, fields, reason):
    client = scene.client(minor=1, major=2)
    object_id = await create(client)
    assert (await client.about(Operation.ADJUST_ATTRIBUTE, object_id, *fields)).reason is reason


async def test_registered_objects_are_returned_unchanged(client: Client):
    opaque = structure(Tag.OPAQUE_OBJECT, choice(Tag.OPAQUE_DATA_TYPE, 1), octets(Tag.OPAQUE_DATA_VALUE, b"data"))
    value = structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, b"password"))
    block = structure(Tag.KEY_BLOCK, choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.RAW), value)
    secret = structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, 1), block)
    for kind, item in ((ObjectType.OPAQUE_OBJECT, opaque), (ObjectType.SECRET_DATA, secret)):
        made = await client.ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, kind), attributes(mask()), item)
        assert (await client.get(made.object_id)).payload.children()[-1] == item


async def test_key_pair_has_common_and_separate_attributes(client: Client):
    common = structure(
        Tag.COMMON_ATTRIBUTES, choice(Tag.CRYPTOGRAPHIC_ALGORITHM, 6), number(Tag.CRYPTOGRAPHIC_LENGTH, 256)
    )
    private = structure(Tag.PRIVATE_KEY_ATTRIBUTES, mask(1), name("private"))
    public = structure(Tag.PUBLIC_KEY_ATTRIBUTES, mask(2), name("public"))
    made = await client.ask(Operation.CREATE_KEY_PAIR, common, private, public)
    halves = made.value(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER), made.value(Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER)
    links = (LinkType.PUBLIC_KEY_LINK, LinkType.PRIVATE_KEY_LINK)
    wanted = reference(Tag.NAME, Tag.CRYPTOGRAPHIC_USAGE_MASK, Tag.LINK)
    for object_id, called, uses, link, other in zip(
        halves, ("private", "public"), (1, 2), links, reversed(halves), strict=True
    ):
        linked = structure(Tag.LINK, choice(Tag.LINK_TYPE, link), text(Tag.LINKED_OBJECT_IDENTIFIER, other))
        assert await read(client, object_id, *wanted) == (name(called), mask(uses), linked)


async def test_batch_uses_the_placeholder_by_name(client: Client):
    create_item, activate = (
        structure(Tag.BATCH_ITEM, choice(Tag.OPERATION, operation), structure(Tag.REQUEST_PAYLOAD, *payload))
        for operation, payload in (
            (Operation.CREATE, (SYMMETRIC, attributes(*AES, mask()))),
            (Operation.ACTIVATE, (choice(Tag.UNIQUE_IDENTIFIER, 1),)),
        )
    )
    created, activated = await client.batch(create_item, activate)
    assert activated.object_id == created.object_id
    for other in (choice(Tag.UNIQUE_IDENTIFIER, 3), number(Tag.UNIQUE_IDENTIFIER, 7)):
        assert (await client.ask(Operation.GET, other)).reason is R.FEATURE_NOT_SUPPORTED


async def test_data_is_encrypted_and_decrypted(client: Client, scene: Scene):
    object_id = await create(client, moment(Tag.ACTIVATION_DATE, scene.clock.now))
    parameters = structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.CBC),
        choice(Tag.PADDING_METHOD, PaddingMethod.PKCS5),
    )
    sealed = await client.encrypt(object_id, b"Jane Roe", parameters=parameters)
    fields = [item for item in sealed.payload.children() if item.tag != Tag.UNIQUE_IDENTIFIER]
    opened = await client.about(Operation.DECRYPT, object_id, parameters, *fields)
    assert opened.value(Tag.DATA) == b"Jane Roe"


async def test_reasons_are_more_exact_than_in_version_1(client: Client, scene: Scene):
    older = scene.client()
    object_id, other = await create(client, name("first")), await create(client)
    answers: list[tuple[R | None, R | None]] = []

    async def compare(operation: int, payload: Item, older_payload: Item | None = None, about: str = object_id) -> None:
        exact = (await client.about(operation, about, payload)).reason
        answers.append((exact, (await older.about(operation, about, older_payload or payload)).reason))

    await compare(Operation.CHECK, mask(1))
    taken = attribute("Name", structure(VALUE, *name("first").children()))
    await compare(Operation.ADD_ATTRIBUTE, new(name("first")), taken, other)
    state = attribute("State", choice(VALUE, State.ACTIVE))
    await compare(Operation.MODIFY_ATTRIBUTE, new(choice(Tag.STATE, State.ACTIVE)), state)
    await client.about(Operation.ACTIVATE, object_id)
    await compare(Operation.DESTROY, mask())
    await client.revoke(object_id, RevocationReasonCode.CESSATION_OF_OPERATION)
    await client.about(Operation.DESTROY, object_id)
    await compare(Operation.GET, mask())
    await compare(Operation.GET, mask(), about="lost")
    assert answers == [
        (R.INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK, None),
        (R.NON_UNIQUE_NAME_ATTRIBUTE, R.ILLEGAL_OPERATION),
        (R.ATTRIBUTE_READ_ONLY, R.PERMISSION_DENIED),
        (R.WRONG_KEY_LIFECYCLE_STATE, R.PERMISSION_DENIED),
        (R.OBJECT_DESTROYED, R.ITEM_NOT_FOUND),
        (R.OBJECT_NOT_FOUND, R.ITEM_NOT_FOUND),
    ]


async def test_name_is_added_once(client: Client):
    object_id = await create(client, name("first"))
    again = await client.about(Operation.ADD_ATTRIBUTE, object_id, new(name("first")))
    assert again.reason is R.NON_UNIQUE_NAME_ATTRIBUTE


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((structure(Tag.TEMPLATE_ATTRIBUTE),), R.INVALID_FIELD),
        ((attributes(*AES, mask(), choice(Tag.STATE, 2)),), R.ATTRIBUTE_READ_ONLY),
        ((attributes(*AES, mask(), text(Tag.DATA, "no attribute")),), R.UNSUPPORTED_ATTRIBUTE),
        ((attributes(*AES, mask(), text(Tag.OPERATION_POLICY_NAME, "default")),), R.UNSUPPORTED_ATTRIBUTE),
        ((attributes(*AES, mask(), vendor("y", "GCM Invocations", long(VALUE, 1))),), R.ATTRIBUTE_READ_ONLY),
        ((attributes(*AES, mask(), structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, "x"))),), R.MISSING_DATA),
        ((attributes(*AES, mask(), vendor("x", "a\x1fb", text(VALUE, ""))),), R.INVALID_FIELD),
        ((attributes(*AES, mask(), choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.PKCS_1)),), R.INVALID_FIELD),
        ((text(Tag.ATTRIBUTES, "no structure"),), R.INVALID_MESSAGE),
        ((interval(Tag.ATTRIBUTE, 1),), R.INVALID_FIELD),
    ],
)
async def test_invalid_creation_is_rejected(scene: Scene, fields, reason):
    client = scene.client(minor=1, major=2)
    assert (await client.ask(Operation.CREATE, SYMMETRIC, *fields)).reason is reason
    assert (await client.ask(Operation.LOCATE)).ids == []


@pytest.mark.parametrize(("masks", "reason"), [((1,), None), ((2, 1), None), ((2,), R.PROTECTION_STORAGE_UNAVAILABLE)])
async def test_key_is_created_only_where_its_protection_can_be_kept(scene: Scene, masks, reason):
    client = scene.client(minor=1, major=2)
    wanted = structure(Tag.PROTECTION_STORAGE_MASKS, *(number(Tag.PROTECTION_STORAGE_MASK, bits) for bits in masks))
    assert (await client.ask(Operation.CREATE, SYMMETRIC, attributes(*AES, mask()), wanted)).reason is reason


async def test_operations_of_version_2_are_not_in_version_1(scene: Scene):
    newer, older = scene.client(minor=0, major=2), scene.client()
    for operation in (Operation.SET_ATTRIBUTE, Operation.ADJUST_ATTRIBUTE, Operation.LOG):
        assert (await older.ask(operation)).reason is R.OPERATION_NOT_SUPPORTED
    asked = (choice(Tag.QUERY_FUNCTION, 1), choice(Tag.QUERY_FUNCTION, 2))
    answers = [(await client.ask(Operation.QUERY, *asked)).payload for client in (newer, older)]
    operations = [{item.value for item in answer.all(Tag.OPERATION)} for answer in answers]
    assert operations[0] - operations[1] == {Operation.SET_ATTRIBUTE, Operation.ADJUST_ATTRIBUTE, Operation.LOG}
    kinds = [{item.value for item in answer.all(Tag.OBJECT_TYPE)} for answer in answers]
    assert kinds[1] - kinds[0] == {ObjectType.TEMPLATE}
    template = structure(Tag.TEMPLATE)
    assert (
        await newer.ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, ObjectType.TEMPLATE), attributes(), template)
    ).reason is R.INVALID_FIELD


async def test_message_of_a_client_is_logged_without_control_characters_and_not_audited(scene: Scene):
    client = scene.client(minor=1, major=2)
    with structlog.testing.capture_logs() as logged:
        answer = await client.ask(Operation.LOG, text(Tag.LOG_MESSAGE, "line\n\x1b[31m" + "x" * 5_000))
    assert (answer.reason, answer.payload.children()) == (None, ())
    (line,) = [one for one in logged if one["event"] == "message of a client"]
    assert line["message"] == ("line[31m" + "x" * 5_000)[: len(line["message"])]
    assert 1_000 < len(line["message"]) <= 1_024
    assert (line["tenant_id"], line["service"]) == (scene.tenant, "orders")
    assert scene.journal.entries == []


async def test_changes_are_audited_as_in_version_1(scene: Scene):
    client = scene.client(minor=1, major=2)
    object_id = await create(client)
    await client.about(Operation.SET_ATTRIBUTE, object_id, new(text(Tag.DESCRIPTION, "a")))
    operations = [entry.operation for entry in scene.journal.entries]
    assert operations == [CryptoOperation.CREATE, CryptoOperation.CHANGE_ATTRIBUTES]
