import pytest

from core.services import CryptoOperation
from core.tenants.lifecycle import State
from crypto_service.kmip import dispatch
from crypto_service.kmip.codec import framing
from crypto_service.kmip.codec.enums import BatchErrorContinuationOption, Operation, ResultReason, ResultStatus
from crypto_service.kmip.codec.enums import State as KeyState
from crypto_service.kmip.codec.fields import choice, flag, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.server.eager import Completed, start_eagerly
from tests.crypto_service.kmip.messages import batch_item, message, version
from tests.crypto_service.kmip.scene import Answered, Scene, a_name, creation, custom

UNDO = choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.UNDO)


def header_of(response):
    return response.first(Tag.RESPONSE_HEADER)


async def test_response_has_version_and_time_of_the_request(scene: Scene):
    response = await scene.client(minor=1).send(
        message(batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1)), minor=1)
    )
    assert header_of(response).first(Tag.PROTOCOL_VERSION) == version(1)
    assert header_of(response).first(Tag.TIME_STAMP).value == scene.clock.now
    assert header_of(response).first(Tag.BATCH_COUNT).value == 1


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_large_headers_do_not_fill_the_cache(scene: Scene, size: int):
    """The attack: headers of a megabyte, each different, in a cache that all tenants share."""
    client, query = scene.client(), batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1))
    before = dispatch._read_header.cache_info().misses
    number_of_size = Item(Tag.VENDOR_EXTENSION, ItemType.BIG_INTEGER, 1 << 8 * size)
    for more in (
        text(Tag.CLIENT_CORRELATION_VALUE, "x" * size),
        octets(Tag.VENDOR_EXTENSION, b"x" * size),
        number_of_size,
        structure(Tag.MESSAGE_EXTENSION, number_of_size),
    ):
        response = await client.send(message(query, header=(more,)))
        assert Answered(response.first(Tag.BATCH_ITEM)).reason is None
    correlated = message(query, header=(text(Tag.CLIENT_CORRELATION_VALUE, "x" * size),))
    assert header_of(await client.send(correlated)).first(Tag.CLIENT_CORRELATION_VALUE).value == "x" * size
    assert dispatch._read_header.cache_info().misses - before == (4 if size == 10 else 0)


@pytest.mark.parametrize(
    ("bad", "newest"),
    [
        (version(5), version(4)),
        (version(-1), version(4)),
        (version(2, major=2), version(1, major=2)),
        (version(0, major=3), version(4)),
    ],
)
async def test_unknown_version_is_rejected_in_the_newest_version_of_its_kind(scene: Scene, bad: Item, newest: Item):
    request = structure(
        Tag.REQUEST_MESSAGE,
        structure(Tag.REQUEST_HEADER, bad, number(Tag.BATCH_COUNT, 1)),
        batch_item(Operation.GET),
    )
    response = await scene.client().send(request)
    assert header_of(response).first(Tag.PROTOCOL_VERSION) == newest
    assert Answered(response.first(Tag.BATCH_ITEM)).reason is ResultReason.INVALID_MESSAGE


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((flag(Tag.ASYNCHRONOUS_INDICATOR, value=True),), ResultReason.FEATURE_NOT_SUPPORTED),
        ((UNDO,), ResultReason.FEATURE_NOT_SUPPORTED),
        ((text(Tag.ASYNCHRONOUS_INDICATOR, "yes"),), ResultReason.INVALID_MESSAGE),
        ((number(Tag.BATCH_COUNT, 3),), ResultReason.INVALID_MESSAGE),
    ],
)
async def test_unsupported_header_is_rejected_before_any_operation(scene: Scene, header, reason):
    client = scene.client()
    create = batch_item(*creation(a_name("never")))
    answers = await client.batch(create, create, header=header)
    assert [answer.reason for answer in answers] == [reason]
    assert (await client.ask(Operation.LOCATE)).ids == []


async def test_batch_stops_at_the_first_failure_without_continue(scene: Scene):
    client = scene.client()
    lost, query = batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, "lost")), batch_item(*creation())
    assert [answer.reason for answer in await client.batch(lost, query)] == [ResultReason.ITEM_NOT_FOUND]
    options = (choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.CONTINUE),)
    answers = await client.batch(lost, query, header=options)
    assert [answer.reason for answer in answers] == [ResultReason.ITEM_NOT_FOUND, None]


async def test_undo_batch_that_changes_only_in_its_last_item_is_processed(scene: Scene):
    client = scene.client()
    (created,) = await client.batch(batch_item(*creation(a_name("mine"))), header=(UNDO,))
    locate = batch_item(Operation.LOCATE, a_name("mine"))
    found, activated = await client.batch(locate, batch_item(Operation.ACTIVATE), header=(UNDO,))
    assert (found.ids, activated.object_id) == ([created.object_id], created.object_id)
    assert await client.state(created.object_id) == KeyState.ACTIVE


async def test_undo_batch_returns_nothing_after_a_failure(scene: Scene):
    client = scene.client()
    await client.create(a_name("mine"))
    lost = batch_item(Operation.DESTROY, text(Tag.UNIQUE_IDENTIFIER, "lost"))
    answers = await client.batch(batch_item(Operation.LOCATE, a_name("mine")), lost, header=(UNDO,))
    assert [answer.item.first(Tag.RESULT_STATUS).value for answer in answers] == [
        ResultStatus.OPERATION_UNDONE,
        ResultStatus.OPERATION_FAILED,
    ]
    assert answers[0].item.first(Tag.RESPONSE_PAYLOAD) is None
    assert answers[1].reason is ResultReason.ITEM_NOT_FOUND


@pytest.mark.parametrize("first", [Operation.GET, Operation.ENCRYPT, Operation.REVOKE, Operation.DESTROY])
async def test_undo_batch_that_could_not_be_undone_is_rejected_before_any_change(scene: Scene, first: Operation):
    client = scene.client()
    object_id = await client.create()
    identifier = text(Tag.UNIQUE_IDENTIFIER, object_id)
    batch = batch_item(first, identifier), batch_item(Operation.GET_ATTRIBUTES, identifier)
    (answer,) = await client.batch(*batch, header=(UNDO,))
    assert answer.reason is ResultReason.FEATURE_NOT_SUPPORTED
    assert "only in its last item" in answer.message
    attributes = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    assert (attributes["State"], attributes["Fresh"]) == (KeyState.PRE_ACTIVE, True)


@pytest.mark.parametrize(
    "authentication",
    [
        structure(Tag.AUTHENTICATION),
        structure(Tag.AUTHENTICATION, structure(Tag.CREDENTIAL, choice(Tag.CREDENTIAL_TYPE, 1))),
        structure(Tag.AUTHENTICATION, structure(Tag.CREDENTIAL, choice(Tag.CREDENTIAL_TYPE, 0x80000001))),
        octets(Tag.AUTHENTICATION, b"not a structure"),
    ],
)
async def test_credentials_in_the_header_are_ignored(scene: Scene, authentication: Item):
    (answer,) = await scene.client().batch(batch_item(*creation()), header=(authentication,))
    assert answer.reason is None


async def test_correlated_response_has_the_correlation_id_of_its_audit_entry(scene: Scene):
    client = scene.client()
    create = batch_item(*creation())
    given = text(Tag.CLIENT_CORRELATION_VALUE, "order 7")
    header = header_of(await client.send(message(create, header=(given,))))
    assert header.first(Tag.CLIENT_CORRELATION_VALUE) == given
    assert header.first(Tag.SERVER_CORRELATION_VALUE).value == scene.journal.entries[-1].correlation_id
    for request in (message(create), message(create, minor=3, header=(given,))):
        assert header_of(await client.send(request)).first(Tag.SERVER_CORRELATION_VALUE) is None


@pytest.mark.parametrize("protocol", [version(1, major=2), version(2, major=2), version(0, major=3), version(7)])
async def test_discover_versions_is_answered_in_any_version(scene: Scene, protocol: Item):
    header = structure(Tag.REQUEST_HEADER, protocol, number(Tag.BATCH_COUNT, 1))
    wanted = protocol, version(3), version(2)
    every = [version(minor, major=major) for major, minor in framing.VERSIONS]
    supported = [one for one in wanted if one in every]
    for asked, expected in (((), every), (wanted, supported)):
        discover = batch_item(Operation.DISCOVER_VERSIONS, *asked)
        response = await scene.client().send(structure(Tag.REQUEST_MESSAGE, header, discover))
        assert header_of(response).first(Tag.PROTOCOL_VERSION) == protocol
        answer = Answered(response.first(Tag.BATCH_ITEM))
        assert list(answer.payload.children()) == expected


async def test_batch_items_share_the_placeholder_and_keep_their_ids(scene: Scene):
    create = structure(
        Tag.BATCH_ITEM,
        *batch_item(*creation()).children()[:1],
        octets(Tag.UNIQUE_BATCH_ITEM_ID, b"1"),
        *batch_item(*creation()).children()[1:],
    )
    answers = await scene.client().batch(create, batch_item(Operation.ACTIVATE), batch_item(Operation.GET))
    assert [answer.reason for answer in answers] == [None, None, None]
    assert answers[0].item.first(Tag.UNIQUE_BATCH_ITEM_ID).value == b"1"
    assert answers[2].object_id == answers[0].object_id
    assert len(answers[2].material) == 32
    client = scene.client("billing")
    await client.create(custom("x-kind", "a"))
    await client.create(custom("x-kind", "a"))
    found, got = await client.batch(batch_item(Operation.LOCATE, custom("x-kind", "a")), batch_item(Operation.GET))
    assert (len(found.ids), got.reason) == (2, ResultReason.ITEM_NOT_FOUND)  # several matches set no placeholder
    answers = await client.batch(*[batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1))] * 129)
    assert [answer.reason for answer in answers] == [ResultReason.INVALID_MESSAGE]  # above the limit of a batch


async def test_unsupported_operation_is_rejected(scene: Scene):
    assert (await scene.client().ask(Operation.CERTIFY)).reason is ResultReason.OPERATION_NOT_SUPPORTED
    assert (await scene.client().ask(0x7777)).reason is ResultReason.OPERATION_NOT_SUPPORTED
    old = scene.client(minor=1)
    assert (await old.encrypt(await old.activated(), b"data")).reason is ResultReason.OPERATION_NOT_SUPPORTED


async def test_critical_extension_is_rejected_and_any_other_ignored(scene: Scene):
    def extended(critical: bool) -> Item:  # noqa: FBT001 - the difference
        extension = structure(Tag.MESSAGE_EXTENSION, flag(Tag.CRITICALITY_INDICATOR, value=critical))
        return structure(Tag.BATCH_ITEM, *batch_item(*creation()).children(), extension)

    assert (await scene.client().batch(extended(critical=True)))[0].reason is ResultReason.FEATURE_NOT_SUPPORTED
    assert (await scene.client().batch(extended(critical=False)))[0].reason is None


async def test_each_item_has_an_audit_entry_with_its_error_code(scene: Scene):
    client = scene.client()
    object_id = await client.create()
    await client.get(object_id)
    await scene.client(service="billing").get(object_id)
    entries = [(entry.service, entry.operation, entry.subject, entry.refused) for entry in scene.journal.entries]
    assert entries == [
        ("orders", CryptoOperation.CREATE, object_id, ""),
        ("orders", CryptoOperation.GET, object_id, ""),
        ("billing", CryptoOperation.GET, object_id, "object_not_found"),
    ]
    assert {entry.source for entry in scene.journal.entries} == {"192.0.2.7"}
    assert all(entry.microseconds for entry in scene.journal.entries)
    object_id = await client.activated(mask=0)
    await client.encrypt(object_id, b"data")
    await client.about(Operation.ENCRYPT, object_id)
    await client.revoke(object_id, 2)
    await client.get(object_id)
    await client.ask(Operation.REVOKE, text(Tag.UNIQUE_IDENTIFIER, object_id))
    refused = [entry.refused for entry in scene.journal.entries[3:] if entry.refused]
    assert refused == [*["key_not_usable"] * 3, "invalid_request"]


async def test_outage_differs_from_not_found(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    scene.journal.full = True
    answer = await client.get(object_id)  # cannot be logged
    assert (answer.reason, answer.item.first(Tag.RESPONSE_PAYLOAD)) == (ResultReason.GENERAL_FAILURE, None)
    scene.journal.full = False
    scene.keys.down = True
    assert (await client.get(object_id)).reason is ResultReason.GENERAL_FAILURE
    scene.keys.down = False
    scene.one.changes.tell(None)
    with scene.base.field.server.offline(scene.base.field.name):
        answer = await client.get(object_id)
    assert answer.reason is ResultReason.GENERAL_FAILURE
    assert scene.journal.entries[-1].refused == "database_unavailable"


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        (State.SUSPENDED, {Operation.GET, Operation.LOCATE, Operation.GET_ATTRIBUTES, Operation.REVOKE}),
        (State.LOCKED, set()),
        (State.LEAVING, set()),
        (State.OFFBOARDED, set()),
    ],
)
async def test_tenant_state_limits_the_operations(scene: Scene, state: State, allowed):
    client = scene.client()
    keys = [await client.activated() for _ in range(4)]
    scene.callers.states[scene.tenant] = state
    outcome = {
        Operation.CREATE: await client.ask(*creation()),
        Operation.ACTIVATE: await client.about(Operation.ACTIVATE, keys[0]),
        Operation.REKEY: await client.about(Operation.REKEY, keys[0]),
        Operation.ADD_ATTRIBUTE: await client.about(Operation.ADD_ATTRIBUTE, keys[0], custom("x-a", "1")),
        Operation.ENCRYPT: await client.encrypt(keys[0], b"data"),
        Operation.GET: await client.get(keys[0]),
        Operation.GET_ATTRIBUTES: await client.about(Operation.GET_ATTRIBUTES, keys[0]),
        Operation.LOCATE: await client.ask(Operation.LOCATE),
        Operation.REVOKE: await client.revoke(keys[1], 6),
    }
    assert {operation for operation, answer in outcome.items() if answer.reason is None} == allowed
    refused = {answer.reason for operation, answer in outcome.items() if operation not in allowed}
    assert refused == {ResultReason.PERMISSION_DENIED}
    scene.callers.states.clear()
    expected = KeyState.DEACTIVATED if Operation.REVOKE in allowed else KeyState.ACTIVE
    assert await client.state(keys[1]) == expected


async def test_get_of_a_cached_object_does_not_suspend(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    await client.get(object_id)
    scene.one.changes.tell(None)
    await client.get(object_id)
    work = start_eagerly(client.get(object_id))
    assert isinstance(work, Completed)
    assert work.value.reason is None
