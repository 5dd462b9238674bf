"""Addition, change and deletion of attributes: the permissions of clients, and attributes of the server."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from crypto_service.kmip.codec.enums import BatchErrorContinuationOption, Operation, ResultReason, UsageLimitsUnit
from crypto_service.kmip.codec.fields import choice, flag, interval, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects.x509_attributes import with_certificate
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import VALUE, Scene, a_date, a_name, attribute, custom, limited

SERVERS = [
    attribute("Unique Identifier", text(VALUE, "mine")),
    attribute("Object Type", choice(VALUE, 7)),
    attribute("State", choice(VALUE, 2)),
    attribute("Lease Time", interval(VALUE, 1)),
    *(a_date(f"{what} Date", 1) for what in ("Initial", "Last Change", "Destroy", "Compromise", "Archive")),
    attribute("Digest", structure(VALUE)),
    attribute("Revocation Reason", structure(VALUE)),
    attribute("Cryptographic Algorithm", choice(VALUE, 2)),
    attribute("Cryptographic Length", number(VALUE, 128)),
    attribute("Cryptographic Usage Mask", number(VALUE, 0xFFFFF)),
    attribute("Fresh", flag(VALUE, value=True)),
    attribute("Always Sensitive", flag(VALUE, value=True)),
    attribute("y-server", text(VALUE, "1")),
]


@pytest.mark.parametrize("operation", [Operation.ADD_ATTRIBUTE, Operation.MODIFY_ATTRIBUTE])
async def test_client_cannot_set_server_attributes(scene: Scene, operation):
    client = scene.client()
    object_id = await client.activated()
    before = (await client.about(Operation.GET_ATTRIBUTES, object_id)).item
    for item in SERVERS:
        answer = await client.about(operation, object_id, item)
        name = item.children()[0].value
        settable = name in named.RULES and named.RULES[name].create and operation == Operation.ADD_ATTRIBUTE
        assert answer.reason is (ResultReason.ILLEGAL_OPERATION if settable else ResultReason.PERMISSION_DENIED), name
    assert (await client.about(Operation.GET_ATTRIBUTES, object_id)).item == before


async def test_only_deletable_attributes_can_be_deleted(scene: Scene):
    client = scene.client()
    object_id = await client.activated(a_name("mine"))
    for name in [*(name for name in named.RULES if named.is_visible(name, client.minor)), "y-server"]:
        answer = await client.about(Operation.DELETE_ATTRIBUTE, object_id, text(Tag.ATTRIBUTE_NAME, name))
        free = name in named.RULES and named.RULES[name].delete
        absent = None if name == "Name" else ResultReason.ITEM_NOT_FOUND
        assert answer.reason is (absent if free else ResultReason.PERMISSION_DENIED), name


async def test_instances_keep_their_index_after_a_deletion(scene: Scene):
    client = scene.client()
    object_id = await client.create(custom("x-n", "a"), custom("x-n", "b"), custom("x-n", "c"))
    name = text(Tag.ATTRIBUTE_NAME, "x-n")
    await client.about(Operation.DELETE_ATTRIBUTE, object_id, name, number(Tag.ATTRIBUTE_INDEX, 1))
    changed = await client.about(Operation.MODIFY_ATTRIBUTE, object_id, attribute("x-n", text(VALUE, "C"), 2))
    assert changed.payload.children()[1] == attribute("x-n", text(VALUE, "C"), 2)
    shown = (await client.about(Operation.GET_ATTRIBUTES, object_id, name)).payload.all(Tag.ATTRIBUTE)
    assert list(shown) == [attribute("x-n", text(VALUE, "a")), attribute("x-n", text(VALUE, "C"), 2)]
    added = await client.about(Operation.ADD_ATTRIBUTE, object_id, custom("x-n", "d"))
    assert added.payload.children()[1] == attribute("x-n", text(VALUE, "d"), 3)


@pytest.mark.parametrize(
    ("operation", "payload", "reason"),
    [
        (Operation.MODIFY_ATTRIBUTE, (custom("x-absent", "1"),), ResultReason.INVALID_FIELD),
        (Operation.MODIFY_ATTRIBUTE, (attribute("x-here", text(VALUE, "1"), 7),), ResultReason.ITEM_NOT_FOUND),
        (Operation.ADD_ATTRIBUTE, (attribute("x-here", text(VALUE, "1"), 7),), ResultReason.INVALID_FIELD),
        (
            Operation.ADD_ATTRIBUTE,
            (attribute("Contact Information", text(VALUE, "me")),),
            ResultReason.ILLEGAL_OPERATION,
        ),
        (Operation.ADD_ATTRIBUTE, (attribute("Contact Information", number(VALUE, 1)),), ResultReason.INVALID_FIELD),
        (
            Operation.ADD_ATTRIBUTE,
            (structure(Tag.ATTRIBUTE, text(Tag.ATTRIBUTE_NAME, "x-a")),),
            ResultReason.MISSING_DATA,
        ),
        (Operation.ADD_ATTRIBUTE, (), ResultReason.MISSING_DATA),
        (Operation.DELETE_ATTRIBUTE, (text(Tag.ATTRIBUTE_NAME, "x-absent"),), ResultReason.ITEM_NOT_FOUND),
    ],
)
async def test_rejection_has_the_reason_of_the_specification(scene: Scene, operation, payload, reason):
    client = scene.client()
    object_id = await client.create(custom("x-here", "1"), attribute("Contact Information", text(VALUE, "ops")))
    assert (await client.about(operation, object_id, *payload)).reason is reason


async def test_usage_limits_start_full_and_are_used_once(scene: Scene):
    client = scene.client()
    limits = structure(
        VALUE, long(Tag.USAGE_LIMITS_TOTAL, 100), long(Tag.USAGE_LIMITS_COUNT, 5_000), choice(Tag.USAGE_LIMITS_UNIT, 1)
    )
    object_id = await client.activated(attribute("Usage Limits", limits))
    assert (await client.encrypt(object_id, bytes(60))).reason is None
    assert (await client.encrypt(object_id, bytes(60))).reason is ResultReason.PERMISSION_DENIED
    left = await client.about(Operation.CHECK, object_id, long(Tag.USAGE_LIMITS_COUNT, 41))
    assert left.value(Tag.USAGE_LIMITS_COUNT) == 40
    assert (
        await client.about(Operation.GET_USAGE_ALLOCATION, object_id, long(Tag.USAGE_LIMITS_COUNT, 40))
    ).reason is None
    spent = await client.about(Operation.GET_USAGE_ALLOCATION, object_id, long(Tag.USAGE_LIMITS_COUNT, 1))
    assert spent.reason is ResultReason.PERMISSION_DENIED
    negative = await client.about(Operation.GET_USAGE_ALLOCATION, object_id, long(Tag.USAGE_LIMITS_COUNT, -40))
    assert negative.reason is ResultReason.INVALID_FIELD


@pytest.mark.parametrize("use", ["encrypt", "allocate"])
async def test_client_changes_usage_limits_only_before_the_first_use(scene: Scene, use: str):
    """The attack: the client of a key whose limits are spent raises or deletes them."""
    client, newer = scene.client(), scene.client(minor=1, major=2)

    def limits(total: int, tag: int = VALUE) -> Item:
        return structure(tag, long(Tag.USAGE_LIMITS_TOTAL, total), choice(Tag.USAGE_LIMITS_UNIT, 1))

    object_id = await client.activated(attribute("Usage Limits", limits(100)))
    corrected = await client.about(Operation.MODIFY_ATTRIBUTE, object_id, attribute("Usage Limits", limits(60)))
    assert corrected.reason is None
    if use == "encrypt":
        assert (await client.encrypt(object_id, bytes(60))).reason is None
    else:
        used = await client.about(Operation.GET_USAGE_ALLOCATION, object_id, long(Tag.USAGE_LIMITS_COUNT, 60))
        assert used.reason is None
    before = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes["Usage Limits"]
    more = structure(Tag.NEW_ATTRIBUTE, limits(10**9, Tag.USAGE_LIMITS))
    answers = (
        await client.about(Operation.MODIFY_ATTRIBUTE, object_id, attribute("Usage Limits", limits(10**9))),
        await client.about(Operation.DELETE_ATTRIBUTE, object_id, text(Tag.ATTRIBUTE_NAME, "Usage Limits")),
        await newer.about(Operation.SET_ATTRIBUTE, object_id, more),
        await newer.about(Operation.MODIFY_ATTRIBUTE, object_id, more),
        await newer.about(
            Operation.DELETE_ATTRIBUTE, object_id, choice(Tag.ATTRIBUTE_REFERENCE, int(Tag.USAGE_LIMITS))
        ),
    )
    older, exact = ResultReason.PERMISSION_DENIED, ResultReason.ATTRIBUTE_READ_ONLY
    assert [answer.reason for answer in answers] == [older, older, exact, exact, exact]
    assert (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes["Usage Limits"] == before
    assert (await client.encrypt(object_id, b"1")).reason is ResultReason.PERMISSION_DENIED


async def test_custom_attributes_have_any_type_and_newer_attributes_are_rejected(scene: Scene):
    client, old = scene.client(), scene.client(minor=0)
    object_id = await client.create()
    for value in (
        number(VALUE, -1),
        octets(VALUE, b"\0"),
        flag(VALUE, value=True),
        structure(VALUE, text(Tag.DATA, "a")),
    ):
        item = attribute("x-Product_Version", value)
        assert (await client.about(Operation.ADD_ATTRIBUTE, object_id, item)).reason is None
    item = attribute("Description", text(VALUE, "of 1.4"))
    assert (await old.about(Operation.ADD_ATTRIBUTE, object_id, item)).reason is ResultReason.INVALID_FIELD


async def test_operation_policy_name_is_added_once(scene: Scene):
    client = scene.client(minor=2)
    object_id = await client.create()
    policy, other = (attribute("Operation Policy Name", text(VALUE, name)) for name in ("default", "other"))
    assert (await client.about(Operation.ADD_ATTRIBUTE, object_id, policy)).reason is None
    for again in (policy, other):
        assert (await client.about(Operation.ADD_ATTRIBUTE, object_id, again)).reason is ResultReason.ILLEGAL_OPERATION
    modified = await client.about(Operation.MODIFY_ATTRIBUTE, object_id, other)
    assert modified.reason is ResultReason.PERMISSION_DENIED
    assert (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes["Operation Policy Name"] == "default"


def test_certificate_of_an_unknown_version_gets_no_attributes() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "customer")])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin + timedelta(days=1))
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    assert with_certificate(der, {}) != {}
    assert with_certificate(der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1), {}) == {}


@pytest.mark.parametrize(("major", "minor"), [(1, 0), (1, 4), (2, 1)])
@pytest.mark.parametrize("field", [number(Tag.CRYPTOGRAPHIC_USAGE_MASK, 1), long(Tag.USAGE_LIMITS_COUNT, 41)])
async def test_next_item_has_no_key_after_a_check_that_denies_its_use(
    scene: Scene, major: int, minor: int, field: Item
):
    """KMIP 1.4, section 4.10: Check precedes Get in a batch, which must not return the key then."""
    object_id = await scene.client().create(limited(40, UsageLimitsUnit.BYTE))
    client = scene.client(major=major, minor=minor)
    keep_going = choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.CONTINUE)
    locate, get = batch_item(Operation.LOCATE), batch_item(Operation.GET)
    allowed = await client.batch(locate, batch_item(Operation.CHECK), get, header=(keep_going,))
    assert [answer.reason for answer in allowed] == [None, None, None]
    found, check, got = await client.batch(locate, batch_item(Operation.CHECK, field), get, header=(keep_going,))
    assert found.ids == [object_id]
    assert check.reason or check.ids == []
    assert got.reason in (ResultReason.ITEM_NOT_FOUND, ResultReason.OBJECT_NOT_FOUND)
