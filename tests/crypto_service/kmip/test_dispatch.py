import pytest

from core.errors.requests import TooManyRequests
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from crypto_service.kmip import dispatch
from crypto_service.kmip.codec import framing, ttlv
from crypto_service.kmip.codec.enums import (
    BatchErrorContinuationOption,
    KeyFormatType,
    ObjectType,
    Operation,
    ResultReason,
    ResultStatus,
)
from crypto_service.kmip.codec.enums import State as KeyState
from crypto_service.kmip.codec.fields import choice, flag, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item, ItemType
from crypto_service.kmip.objects.key_material import MOST_BYTES
from crypto_service.server.eager import start_eagerly
from tests.crypto_service.kmip.messages import a_get, batch_item, message, version
from tests.crypto_service.kmip.scene import Answered, Client, Scene, a_name, creation, custom
from tests.crypto_service.reference_cycles import fewer_objects_in_cycles_than

CONTINUE = choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.CONTINUE)
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


async def test_client_correlation_value_is_repeated_unless_it_is_long(scene: Scene):
    """The attack: a megabyte in each request, which each response would repeat."""
    client, query = scene.client(), batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1))
    given = text(Tag.CLIENT_CORRELATION_VALUE, "x" * 1_024)
    assert header_of(await client.send(message(query, header=(given,)))).first(Tag.CLIENT_CORRELATION_VALUE) == given
    (answer,) = await client.batch(query, header=(text(Tag.CLIENT_CORRELATION_VALUE, "x" * 1_025),))
    assert answer.reason is ResultReason.INVALID_MESSAGE
    assert "more than 1024 characters" in answer.message


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_large_headers_do_not_fill_the_cache(scene: Scene, size: int):
    """The attack: headers of a megabyte, each different, in a cache that all tenants share."""
    client, query = scene.client(), batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1))
    before = dispatch._read_header.cache_info().misses
    number_of_size = Item(Tag.VENDOR_EXTENSION, ItemType.BIG_INTEGER, 1 << 8 * size)
    for more in (
        text(Tag.VENDOR_EXTENSION, "x" * size),
        octets(Tag.VENDOR_EXTENSION, b"x" * size),
        number_of_size,
        structure(Tag.MESSAGE_EXTENSION, number_of_size),
    ):
        response = await client.send(message(query, header=(more,)))
        assert Answered(response.first(Tag.BATCH_ITEM)).reason is None
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
    answers = await client.batch(lost, query, header=(CONTINUE,))
    assert [answer.reason for answer in answers] == [ResultReason.ITEM_NOT_FOUND, None]


async def sized(client: Client, *items: Item, maximum: int) -> tuple[list[Answered], int]:
    """Return the results of a request with a maximum response size, and the bytes of the response."""
    response = await client.send(message(*items, header=(CONTINUE, number(Tag.MAXIMUM_RESPONSE_SIZE, maximum))))
    return [Answered(item) for item in response.all(Tag.BATCH_ITEM)], len(ttlv.encode(response))


async def test_largest_results_are_replaced_until_the_response_fits(scene: Scene):
    client = scene.client()
    get = batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, await client.activated()))
    batch = batch_item(Operation.DISCOVER_VERSIONS, version(4)), get, batch_item(Operation.LOCATE)
    _, whole = await sized(client, *batch, maximum=0)
    answers, size = await sized(client, *batch, maximum=whole)
    assert size == whole
    assert {answer.reason for answer in answers} == {None}
    answers, size = await sized(client, *batch, maximum=whole - 8)
    assert size < whole
    assert [answer.reason for answer in answers] == [None, ResultReason.RESPONSE_TOO_LARGE, None]
    answers, _ = await sized(client, *batch, maximum=1)
    # The other results are smaller than an error.
    assert [answer.reason for answer in answers] == [None, ResultReason.RESPONSE_TOO_LARGE, None]
    operations = [answer.item.first(Tag.OPERATION).value for answer in answers]
    assert operations == [Operation.DISCOVER_VERSIONS, Operation.GET, Operation.LOCATE]
    (alone,), _ = await sized(client, get, maximum=64)
    assert alone.reason is ResultReason.RESPONSE_TOO_LARGE


async def test_short_batch_cannot_ask_for_more_than_fits_in_memory(scene: Scene):
    """The attack: a batch of 128 Gets of one of the largest objects."""
    client = scene.client()
    block = structure(
        Tag.KEY_BLOCK,
        choice(Tag.KEY_FORMAT_TYPE, KeyFormatType.OPAQUE),
        structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, bytes(MOST_BYTES - 100))),
    )
    secret = structure(Tag.SECRET_DATA, choice(Tag.SECRET_DATA_TYPE, 2), block)
    kind, template = choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA), structure(Tag.TEMPLATE_ATTRIBUTE)
    large = await client.ask(Operation.REGISTER, kind, template, secret)
    get = batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, large.object_id))
    response = await client.send(message(*[get] * 127, batch_item(*creation(a_name("never"))), header=(CONTINUE,)))
    assert len(ttlv.encode(response)) < dispatch.RESPONSE_BYTES + 2 * MOST_BYTES
    reasons = [Answered(item).reason for item in response.all(Tag.BATCH_ITEM)]
    results = reasons.count(None)
    assert results == -(-dispatch.RESPONSE_BYTES // MOST_BYTES)
    assert reasons == [None] * results + [ResultReason.RESPONSE_TOO_LARGE] * (128 - results)
    assert (await client.ask(Operation.LOCATE, a_name("never"))).ids == []
    assert Answered((await client.send(message(get))).first(Tag.BATCH_ITEM)).reason is None


async def test_structure_with_more_fields_than_any_object_has_is_rejected(scene: Scene):
    """The attack: thousands of names or attributes, which an operation would compare with each other."""
    client = scene.client()
    object_id = await client.activated()
    names = [text(Tag.ATTRIBUTE_NAME, "State"), *(text(Tag.ATTRIBUTE_NAME, f"x-{place}") for place in range(512))]
    assert (await client.about(Operation.GET_ATTRIBUTES, object_id, *names[:511])).attributes == {"State": 2}
    operation, kind, template = creation(*(custom(f"x-{place}", "v") for place in range(510)))
    versions = [version(4)] * 513
    for items, header in (
        ([batch_item(Operation.GET_ATTRIBUTES, text(Tag.UNIQUE_IDENTIFIER, object_id), *names)], ()),
        ([batch_item(operation, kind, template)], ()),
        ([batch_item(Operation.DISCOVER_VERSIONS, *versions)], ()),
        ([batch_item(Operation.QUERY, choice(Tag.QUERY_FUNCTION, 1))], (number(Tag.VENDOR_EXTENSION, 1),) * 513),
    ):
        (answer,) = await client.batch(*items, header=header)
        assert answer.reason is ResultReason.INVALID_MESSAGE
        assert "too many fields" in answer.message
    discovered = await client.ask(Operation.DISCOVER_VERSIONS, *versions[:512])
    assert list(discovered.payload.children()) == [version(4)]


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


NAMES_ITS_OBJECT = (Operation.GET, Operation.GET_ATTRIBUTES, Operation.ACTIVATE, Operation.CHECK, Operation.DESTROY)


@pytest.mark.parametrize("operation", NAMES_ITS_OBJECT)
async def test_item_that_names_its_object_leaves_the_placeholder(scene: Scene, operation: Operation):
    """KMIP 1.4, section 4: only new and located objects become the placeholder."""
    client = scene.client()
    named = batch_item(operation, text(Tag.UNIQUE_IDENTIFIER, await client.create()))
    created, _, destroyed = await client.batch(batch_item(*creation()), named, batch_item(Operation.DESTROY))
    assert destroyed.object_id == created.object_id


FAILING = {
    "locate": batch_item(Operation.LOCATE, number(Tag.OFFSET_ITEMS, -1)),
    "create": batch_item(Operation.CREATE),
    "get": batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, "missing")),
}


@pytest.mark.parametrize("failing", FAILING)
async def test_item_after_a_failed_one_has_no_placeholder(scene: Scene, failing: str):
    """Otherwise a client that destroys what it locates would destroy what it has created before."""
    client = scene.client()
    keep_going = choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.CONTINUE)
    items = batch_item(*creation()), FAILING[failing], batch_item(Operation.DESTROY)
    created, failed, destroyed = await client.batch(*items, header=(keep_going,))
    assert failed.reason is not None
    assert destroyed.reason is ResultReason.ITEM_NOT_FOUND
    assert (await client.get(created.object_id)).reason is None


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


async def test_repeated_request_is_answered_by_the_state_at_its_time(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    request = dispatch.Request(a_get(object_id))

    async def again() -> Answered:
        caller = await scene.callers.refresh(client.caller)
        answer = ttlv.decode(ttlv.encode(await scene.one.dispatcher.answer(caller, request, "192.0.2.7")))
        [item] = answer.all(Tag.BATCH_ITEM)
        return Answered(item)

    first = await again()
    assert first.reason is None
    assert (await again()).item == first.item
    scene.callers.states[scene.tenant] = State.LOCKED
    assert (await again()).reason is ResultReason.PERMISSION_DENIED
    scene.callers.states.clear()
    await client.revoke(object_id, 1)
    assert (await again()).reason is not None
    got = [entry.refused for entry in scene.journal.entries if entry.operation is CryptoOperation.GET]
    assert [bool(code) for code in got] == [False, False, True, True]


@pytest.mark.parametrize("minor", [4, 0])
async def test_repeated_unreadable_request_gets_the_same_error(scene: Scene, minor: int):
    client = scene.client()
    request = dispatch.Request(message(batch_item(0x7FFF), batch_item(Operation.GET), minor=minor, header=(CONTINUE,)))
    answers = [await scene.one.dispatcher.answer(client.caller, request, "192.0.2.7") for _ in range(2)]
    reasons = [[Answered(item).reason for item in ttlv.decode(ttlv.encode(one)).all(Tag.BATCH_ITEM)] for one in answers]
    assert reasons == [[ResultReason.OPERATION_NOT_SUPPORTED, ResultReason.ITEM_NOT_FOUND]] * 2


async def test_get_of_a_cached_object_does_not_suspend(scene: Scene):
    client = scene.client()
    object_id = await client.activated()
    await client.get(object_id)
    scene.one.changes.tell(None)
    await client.get(object_id)
    result, rest = start_eagerly(client.get(object_id))
    assert rest is None
    assert result is not None
    assert result.reason is None


@pytest.mark.parametrize(
    "operation", [Operation.GET, Operation.LOCATE, Operation.CREATE, Operation.DERIVE_KEY, Operation.SIGN, 9999]
)
async def test_rejected_items_leave_no_reference_cycles(scene: Scene, operation: int):
    client = scene.client()
    key = await client.create()
    payloads = ((), (text(Tag.UNIQUE_IDENTIFIER, key),), (text(Tag.UNIQUE_IDENTIFIER, "unknown"),))
    with fewer_objects_in_cycles_than(100):
        for payload in payloads:
            await client.batch(*[batch_item(operation, *payload)] * 100, header=(CONTINUE,))


async def test_requests_above_the_rate_leave_no_reference_cycles(scene: Scene):
    client = scene.client()
    limits = client.process.parts.limits
    limits.enter(client.caller.tenant_id, 1_000_000_000)
    with fewer_objects_in_cycles_than(100):
        for _ in range(100):
            assert (await client.ask(*creation())).message == TooManyRequests().message
