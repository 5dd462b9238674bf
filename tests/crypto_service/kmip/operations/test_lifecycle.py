"""Create, Register, Get, Activate, Revoke, Destroy, Archive, Re-key and Locate, as clients use them."""

import pytest

from crypto_service.keys.primitives import aes_kw_unwrap
from crypto_service.kmip.codec.enums import (
    BlockCipherMode,
    EncodingOption,
    KeyFormatType,
    ObjectType,
    Operation,
    ResultReason,
    RevocationReasonCode,
    SecretDataType,
    State,
    UsageLimitsUnit,
    WrappingMethod,
)
from crypto_service.kmip.codec.fields import choice, flag, interval, moment, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import VALUE, Scene, a_date, a_name, attribute, creation, custom, gcm, limited

SEED = bytes(range(96))


def a_block(material: Item, form: int = KeyFormatType.RAW, algorithm: int | None = 3, bits: int = 256) -> Item:
    parts = [choice(Tag.KEY_FORMAT_TYPE, form), structure(Tag.KEY_VALUE, material)]
    if algorithm is not None:
        parts += [choice(Tag.CRYPTOGRAPHIC_ALGORITHM, algorithm), number(Tag.CRYPTOGRAPHIC_LENGTH, bits)]
    return structure(Tag.KEY_BLOCK, *parts)


def a_key(material: bytes = bytes(32), *attributes: Item, algorithm: int = 3, bits: int = 256) -> tuple[Item, ...]:
    return (
        choice(Tag.OBJECT_TYPE, ObjectType.SYMMETRIC_KEY),
        structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Usage Mask", number(VALUE, 12)), *attributes),
        structure(Tag.SYMMETRIC_KEY, a_block(octets(Tag.KEY_MATERIAL, material), algorithm=algorithm, bits=bits)),
    )


def libmongocrypt_seed() -> tuple[Item, ...]:
    """Return what all MongoDB drivers register: a mask of 0, no name, opaque."""
    return (
        choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA),
        structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Usage Mask", number(VALUE, 0))),
        structure(
            Tag.SECRET_DATA,
            choice(Tag.SECRET_DATA_TYPE, SecretDataType.SEED),
            a_block(octets(Tag.KEY_MATERIAL, SEED), KeyFormatType.OPAQUE, algorithm=None),
        ),
    )


async def test_mongodb_driver_gets_its_key_until_it_is_revoked(scene: Scene):
    client = scene.client(minor=0)
    object_id = (await client.ask(Operation.REGISTER, *libmongocrypt_seed())).object_id
    assert (await client.about(Operation.ACTIVATE, object_id)).object_id == object_id
    got = await client.get(object_id)
    assert got.material == SEED
    assert got.payload.children()[2] == libmongocrypt_seed()[2]
    assert "Digest" not in (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes  # a secret has none
    await client.revoke(object_id, 1)
    assert (await client.get(object_id)).reason is ResultReason.PERMISSION_DENIED


@pytest.mark.parametrize("code", [RevocationReasonCode.CESSATION_OF_OPERATION, RevocationReasonCode.KEY_COMPROMISE])
async def test_revoked_key_is_returned_only_if_the_policy_permits_it_and_never_used(scene: Scene, code: int):
    object_id = await scene.client().activated()
    sealed = await scene.client().encrypt(object_id, b"Jane Roe", parameters=gcm())
    await scene.client().revoke(object_id, code)
    for operation in (Operation.GET, Operation.OBTAIN_LEASE):
        assert (await scene.client().about(operation, object_id)).reason is ResultReason.PERMISSION_DENIED
    scene.revoked_keys_readable = True
    client = scene.client()
    assert len((await client.get(object_id)).material) == 32
    assert (await client.about(Operation.OBTAIN_LEASE, object_id)).reason is None
    for used in (
        await client.encrypt(object_id, b"Jane Roe", parameters=gcm()),
        await client.about(Operation.DECRYPT, object_id, gcm(), *sealed.payload.children()[1:]),
    ):
        assert used.reason is ResultReason.PERMISSION_DENIED
    await client.about(Operation.DESTROY, object_id)
    assert (await client.get(object_id)).reason is ResultReason.ITEM_NOT_FOUND


async def test_percona_reads_the_state_and_absence_of_a_key(scene: Scene):
    client = scene.client(minor=0)
    object_id = (await client.ask(Operation.REGISTER, *a_key(bytes(range(32))))).object_id
    state = text(Tag.ATTRIBUTE_NAME, "State")
    assert (await client.about(Operation.GET_ATTRIBUTES, object_id, state)).attributes == {"State": State.PRE_ACTIVE}
    await client.about(Operation.ACTIVATE, object_id)
    fresh, newest = text(Tag.ATTRIBUTE_NAME, "Fresh"), scene.client()
    assert (await newest.about(Operation.GET_ATTRIBUTES, object_id, fresh)).attributes == {"Fresh": True}
    assert (await client.get(object_id)).material == bytes(range(32))
    assert (await newest.about(Operation.GET_ATTRIBUTES, object_id, fresh)).attributes == {"Fresh": False}
    assert (await client.about(Operation.GET_ATTRIBUTES, "absent", state)).reason is ResultReason.ITEM_NOT_FOUND


@pytest.mark.parametrize(
    ("minor", "newer"),
    [(0, {"Fresh", "Original Creation Date"}), (1, {"Original Creation Date"}), (2, set()), (3, set())],
)
async def test_attributes_newer_than_the_client_are_hidden(scene: Scene, minor: int, newer: set):
    newest, client = scene.client(), scene.client(minor=minor)
    object_id = await newest.create(attribute("Description", text(VALUE, "of 1.4")))
    seen = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    listed = (await client.about(Operation.GET_ATTRIBUTE_LIST, object_id)).payload.all(Tag.ATTRIBUTE_NAME)
    everything = (await newest.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    newer = newer | ({"Random Number Generator"} if minor < 3 else set())
    always_14 = {"Description", "Sensitive", "Always Sensitive", "Extractable", "Never Extractable"}
    assert set(everything) - set(seen) == newer | always_14
    assert {item.value for item in listed} == set(seen)
    by_name = await client.about(Operation.GET_ATTRIBUTES, object_id, text(Tag.ATTRIBUTE_NAME, "Description"))
    assert by_name.attributes == {}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (a_key(bytes(31)), ResultReason.INVALID_FIELD),
        (a_key(b"", bits=0), ResultReason.INVALID_FIELD),
        (a_key(bytes(70_000), bits=560_000), ResultReason.INVALID_FIELD),
        (a_key()[:2], ResultReason.MISSING_DATA),
        (a_key()[1:], ResultReason.MISSING_DATA),
        ((number(Tag.OBJECT_TYPE, 2), *a_key()[1:]), ResultReason.INVALID_MESSAGE),
        ((choice(Tag.OBJECT_TYPE, 99), *a_key()[1:]), ResultReason.INVALID_FIELD),
        (a_key(bytes(32), attribute("Cryptographic Length", number(VALUE, 128))), ResultReason.INVALID_FIELD),
        (a_key(bytes(32), attribute("State", choice(VALUE, 2))), ResultReason.PERMISSION_DENIED),
        (a_key(bytes(32), attribute("y-server", text(VALUE, ""))), ResultReason.PERMISSION_DENIED),
        (a_key(bytes(32), attribute("No Such", text(VALUE, ""))), ResultReason.INVALID_FIELD),
        (a_key(bytes(32), attribute("Name", text(VALUE, "n"))), ResultReason.INVALID_FIELD),
        (a_key(bytes(32), a_name("zero\0")), ResultReason.INVALID_FIELD),
        (a_key(bytes(32), *[custom(f"x-{n}", "") for n in range(300)]), ResultReason.INDEX_OUT_OF_BOUNDS),
        (a_key(bytes(32), *[custom(f"x-{n}", "a" * 9000) for n in range(9)]), ResultReason.INVALID_FIELD),
    ],
)
async def test_invalid_registration_is_rejected_with_a_reason_and_stores_nothing(scene: Scene, payload, reason):
    client = scene.client()
    assert (await client.ask(Operation.REGISTER, *payload)).reason is reason
    assert (await client.ask(Operation.LOCATE)).ids == []


async def test_get_returns_a_key_in_supported_formats(scene: Scene):
    client = scene.client()
    object_id = (await client.ask(Operation.REGISTER, *a_key(bytes(range(32))))).object_id

    async def get(form: int):  # noqa: ANN202 - the result of Get
        return await client.about(Operation.GET, object_id, choice(Tag.KEY_FORMAT_TYPE, form))

    assert (await get(KeyFormatType.RAW)).material == bytes(range(32))
    transparent = (await get(KeyFormatType.TRANSPARENT_SYMMETRIC_KEY)).material
    assert transparent == (octets(Tag.KEY, bytes(range(32))),)
    assert (await get(KeyFormatType.PKCS_1)).reason is ResultReason.KEY_FORMAT_TYPE_NOT_SUPPORTED


def specification(key: str, option: EncodingOption = EncodingOption.NO_ENCODING) -> Item:
    parameters = structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.BLOCK_CIPHER_MODE, BlockCipherMode.NIST_KEY_WRAP))
    return structure(
        Tag.KEY_WRAPPING_SPECIFICATION,
        choice(Tag.WRAPPING_METHOD, WrappingMethod.ENCRYPT),
        structure(Tag.ENCRYPTION_KEY_INFORMATION, text(Tag.UNIQUE_IDENTIFIER, key), parameters),
        choice(Tag.ENCODING_OPTION, option),
    )


async def test_sensitive_key_is_returned_only_wrapped_and_unextractable_key_never(scene: Scene):
    client = scene.client()
    kind, _, key = a_key(bytes(32))
    active = a_date("Activation Date", scene.clock.now)
    template = structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Usage Mask", number(VALUE, 0x10)), active)
    wrapping = (await client.ask(Operation.REGISTER, kind, template, key)).object_id
    never = await client.activated(attribute("Extractable", flag(VALUE, value=False)))
    assert (await client.get(never)).reason is ResultReason.NOT_EXTRACTABLE
    assert (await client.encrypt(never, b"data")).reason is None
    object_id = await client.activated(attribute("Sensitive", flag(VALUE, value=True)))
    assert (await client.get(object_id)).reason is ResultReason.SENSITIVE
    modify = attribute("Sensitive", flag(VALUE, value=False))
    assert (await client.about(Operation.MODIFY_ATTRIBUTE, object_id, modify)).reason is ResultReason.PERMISSION_DENIED

    got = await client.about(Operation.GET, object_id, specification(wrapping))
    wrapped = got.payload.children()[-1].first(Tag.KEY_BLOCK).first(Tag.KEY_VALUE).value
    assert len(aes_kw_unwrap(bytes(32), wrapped)) == 32
    other_services_key = await scene.client("billing").create()
    for other, reason in [
        (other_services_key, ResultReason.ITEM_NOT_FOUND),
        (object_id, ResultReason.PERMISSION_DENIED),
    ]:
        assert (await client.about(Operation.GET, object_id, specification(other))).reason is reason
    itself = await client.about(Operation.GET, wrapping, specification(wrapping))
    assert itself.reason is ResultReason.PERMISSION_DENIED
    await client.revoke(wrapping, 2)
    revoked = await client.about(Operation.GET, object_id, specification(wrapping))
    assert revoked.reason is ResultReason.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("unit", "total", "wraps"),
    [(UsageLimitsUnit.OBJECT, 2, [True, True, False]), (UsageLimitsUnit.BYTE, 70, [True, True, False])],
)
async def test_wrapping_subtracts_from_the_usage_limits_of_the_wrapping_key(
    scene: Scene, unit: UsageLimitsUnit, total: int, wraps: list[bool]
):
    client = scene.client()
    wrapping, other = await client.activated(limited(total, unit), mask=0x10), await client.create(mask=4)
    answers = [await client.about(Operation.GET, other, specification(wrapping)) for _ in wraps]
    assert [answer.reason is None for answer in answers] == wraps
    assert answers[-1].reason is ResultReason.PERMISSION_DENIED
    left = (await client.about(Operation.GET_ATTRIBUTES, wrapping)).attributes["Usage Limits"][1].value
    assert left == (0 if unit is UsageLimitsUnit.OBJECT else 70 - 2 * 32)


async def test_failed_wrapping_subtracts_nothing(scene: Scene):
    client = scene.client()
    wrapping = await client.activated(limited(1, UsageLimitsUnit.OBJECT), mask=0x10)
    secret = structure(
        Tag.SECRET_DATA,
        choice(Tag.SECRET_DATA_TYPE, SecretDataType.PASSWORD),
        a_block(octets(Tag.KEY_MATERIAL, b"13 characters"), algorithm=None),
    )
    odd = (await client.ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA), secret)).object_id
    assert (await client.about(Operation.GET, odd, specification(wrapping))).reason is ResultReason.INVALID_FIELD
    encoded = await client.about(Operation.GET, odd, specification(wrapping, EncodingOption.TTLV_ENCODING))
    assert encoded.reason is None


@pytest.mark.parametrize("mask", [4, 0x20])
async def test_wrapping_needs_a_key_for_wrapping(scene: Scene, mask: int):
    client = scene.client()
    wrapping, other = await client.activated(mask=mask), await client.create()
    assert (await client.about(Operation.GET, other, specification(wrapping))).reason is ResultReason.PERMISSION_DENIED


async def test_wrapping_needs_an_active_key(scene: Scene):
    client = scene.client()
    wrapping, other = await client.create(mask=0x10), await client.create()
    refused = (await client.about(Operation.GET, other, specification(wrapping))).reason
    assert refused is ResultReason.PERMISSION_DENIED
    await client.about(Operation.ACTIVATE, wrapping)
    assert (await client.about(Operation.GET, other, specification(wrapping))).reason is None


async def test_dates_change_the_key_state_automatically(scene: Scene):
    client, now = scene.client(), scene.clock.now
    object_id = await client.create(a_date("Activation Date", now + 10), a_date("Deactivation Date", now + 20))
    seen = []
    for _ in range(3):
        seen.append((await client.state(object_id), (await client.encrypt(object_id, b"data")).reason))
        scene.clock.now += 10
    denied = ResultReason.PERMISSION_DENIED
    assert seen == [(State.PRE_ACTIVE, denied), (State.ACTIVE, None), (State.DEACTIVATED, denied)]
    assert (await client.get(object_id)).reason is denied
    for name in ("Deactivation Date", "Activation Date"):
        modify = a_date(name, now + 1000)
        assert (await client.about(Operation.MODIFY_ATTRIBUTE, object_id, modify)).reason is denied


async def test_destroyed_key_keeps_its_attributes_but_no_material(scene: Scene):
    client = scene.client()
    object_id = await client.activated(a_name("mine"))
    assert (await client.about(Operation.DESTROY, object_id)).reason is ResultReason.PERMISSION_DENIED
    assert (await client.revoke(object_id, 99)).reason is ResultReason.INVALID_FIELD
    why = choice(Tag.REVOCATION_REASON_CODE, 2), text(Tag.REVOCATION_MESSAGE, "laptop lost")
    reason, since = structure(Tag.REVOCATION_REASON, *why), moment(Tag.COMPROMISE_OCCURRENCE_DATE, 6)
    await client.about(Operation.REVOKE, object_id, reason, since)
    await client.about(Operation.DESTROY, object_id)
    attributes = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    assert attributes["Compromise Occurrence Date"] == 6
    assert attributes["Compromise Date"] == scene.clock.now
    assert attributes["Revocation Reason"] == reason.value
    assert attributes["State"] == State.DESTROYED_COMPROMISED
    assert attributes["Destroy Date"] == scene.clock.now
    assert (await client.get(object_id)).reason is ResultReason.ITEM_NOT_FOUND
    assert (await client.ask(Operation.LOCATE, a_name("mine"))).ids == []
    with scene.base.field.administrator() as administrator:
        kept = administrator.execute("select material from okcm.managed_object where object_id = %s", [object_id])
        assert kept.fetchone() == (None,)


@pytest.mark.parametrize(
    ("code", "revoked", "destroyed"),
    [(6, State.DEACTIVATED, State.DESTROYED), (2, State.COMPROMISED, State.DESTROYED_COMPROMISED)],
)
async def test_pre_active_key_can_be_revoked_and_destroyed(scene: Scene, code: int, revoked: State, destroyed: State):
    client = scene.client()
    object_id = await client.create()
    assert (await client.revoke(object_id, code)).reason is None
    attributes = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    assert attributes["State"] == revoked
    assert attributes.get("Deactivation Date") == (scene.clock.now if revoked is State.DEACTIVATED else None)
    assert (await client.about(Operation.ACTIVATE, object_id)).reason is ResultReason.PERMISSION_DENIED
    await client.about(Operation.DESTROY, object_id)
    assert await client.state(object_id) == destroyed


async def test_archived_object_is_unusable_until_it_is_recovered(scene: Scene):
    client = scene.client()
    object_id = await client.activated(a_name("old"))
    await client.about(Operation.ARCHIVE, object_id)
    assert (await client.get(object_id)).reason is ResultReason.OBJECT_ARCHIVED
    assert (await client.encrypt(object_id, b"data")).reason is ResultReason.OBJECT_ARCHIVED
    assert (await client.ask(Operation.LOCATE, a_name("old"))).ids == []
    both = number(Tag.STORAGE_STATUS_MASK, 3)
    assert (await client.ask(Operation.LOCATE, both, a_name("old"))).ids == [object_id]
    assert (await client.revoke(object_id, 2)).reason is None
    await client.about(Operation.RECOVER, object_id)
    assert (await client.get(object_id)).reason is ResultReason.PERMISSION_DENIED


@pytest.mark.parametrize("name", ["Process Start Date", "Protect Stop Date", "Deactivation Date"])
@pytest.mark.parametrize("bounds", [(0, 2**63 - 1), (-(2**63), 2**62), (2**63 - 1, -(2**63))])
async def test_rekey_rejects_an_offset_beyond_the_possible_dates(scene: Scene, name: str, bounds: tuple[int, int]):
    client = scene.client()
    old = await client.create(a_date("Activation Date", bounds[0]), a_date(name, bounds[1]))
    refused = await client.about(Operation.REKEY, old, interval(Tag.OFFSET, 1))
    assert refused.reason is ResultReason.INVALID_FIELD
    assert "Link" not in (await client.about(Operation.GET_ATTRIBUTES, old)).attributes
    assert (await client.about(Operation.REKEY, old)).reason is None


async def test_rekey_moves_the_name_and_dates_to_the_new_key(scene: Scene):
    client, now = scene.client(), scene.clock.now
    old = await client.create(a_name("mine"), a_date("Activation Date", now), a_date("Deactivation Date", now + 100))
    new = (await client.about(Operation.REKEY, old, interval(Tag.OFFSET, 50))).object_id
    assert (await client.ask(Operation.LOCATE, a_name("mine"))).ids == [new]
    attributes = (await client.about(Operation.GET_ATTRIBUTES, new)).attributes
    assert (attributes["Activation Date"], attributes["Deactivation Date"]) == (now + 50, now + 150)
    assert attributes["Link"] == (choice(Tag.LINK_TYPE, 0x107), text(Tag.LINKED_OBJECT_IDENTIFIER, old))
    before = (await client.about(Operation.GET_ATTRIBUTES, old)).attributes
    assert before["Link"] == (choice(Tag.LINK_TYPE, 0x106), text(Tag.LINKED_OBJECT_IDENTIFIER, new))
    assert "Name" not in before
    assert (await client.get(old)).material != (await client.get(new)).material


async def test_locate_matches_every_kind_of_attribute(scene: Scene):
    client, now = scene.client(), scene.clock.now
    one = await client.create(a_name("one"), custom("x-place", "rack 7"), attribute("Object Group", text(VALUE, "g")))
    scene.clock.now += 100
    two = await client.activated(a_name("two"), custom("x-place", "rack 8"), mask=4)
    secret = (await client.ask(Operation.REGISTER, *libmongocrypt_seed())).object_id
    expected = {
        (a_name("one"),): [one],
        (custom("x-place", "rack 8"),): [two],
        (a_name("one"), custom("x-place", "rack 8")): [],
        (attribute("Object Group", text(VALUE, "g")),): [one],
        (attribute("State", choice(VALUE, State.ACTIVE)),): [two],
        (attribute("Object Type", choice(VALUE, ObjectType.SECRET_DATA)),): [secret],
        (attribute("Cryptographic Usage Mask", number(VALUE, 8)),): [one],
        (attribute("Cryptographic Length", number(VALUE, 256)),): [one, two],
        (a_date("Initial Date", now),): [one],
        (a_date("Initial Date", now + 1), a_date("Initial Date", now + 200)): [two, secret],
        (): [one, two, secret],
        (a_name("' or 1=1"),): [],
    }
    for criteria, ids in expected.items():
        assert (await client.ask(Operation.LOCATE, *criteria)).ids == ids
    page = await client.ask(Operation.LOCATE, number(Tag.MAXIMUM_ITEMS, 1), number(Tag.OFFSET_ITEMS, 1))
    assert (page.ids, page.value(Tag.LOCATED_ITEMS)) == ([two], 3)


async def test_template_provides_its_attributes_but_not_its_name(scene: Scene):
    client = scene.client(minor=0)
    held = structure(Tag.TEMPLATE, custom("x-place", "rack 7"), attribute("Contact Information", text(VALUE, "ops")))
    named = structure(Tag.TEMPLATE_ATTRIBUTE, a_name("usual"))
    template = await client.ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, ObjectType.TEMPLATE), named, held)
    reference = structure(Tag.NAME, text(Tag.NAME_VALUE, "usual"), choice(Tag.NAME_TYPE, 1))
    operation, kind, given = creation(attribute("Contact Information", text(VALUE, "me")))
    payload = structure(Tag.TEMPLATE_ATTRIBUTE, reference, *given.children())
    made = (await client.ask(operation, kind, payload)).object_id
    attributes = (await client.about(Operation.GET_ATTRIBUTES, made)).attributes
    assert (attributes["x-place"], attributes["Contact Information"], attributes.get("Name")) == ("rack 7", "me", None)
    rejected = await scene.client("billing", minor=0).ask(operation, kind, payload)
    assert rejected.reason is ResultReason.ITEM_NOT_FOUND
    assert (await client.about(Operation.DESTROY, template.object_id)).reason is None


@pytest.mark.parametrize("content", [b"no certificate", b"", b"\x30\x03\x02\x01\x01"])
async def test_unreadable_certificate_is_stored_unchanged(scene: Scene, content: bytes):
    client = scene.client()
    registered = structure(Tag.CERTIFICATE, choice(Tag.CERTIFICATE_TYPE, 1), octets(Tag.CERTIFICATE_VALUE, content))
    kind = choice(Tag.OBJECT_TYPE, ObjectType.CERTIFICATE)
    object_id = (await client.ask(Operation.REGISTER, kind, structure(Tag.TEMPLATE_ATTRIBUTE), registered)).object_id
    assert (await client.get(object_id)).payload.children()[2] == registered
    attributes = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes
    assert attributes["Certificate Length"] == len(content)
    assert "Certificate Subject" not in attributes


async def test_destroyed_object_without_a_state_is_not_counted_as_encrypted(scene: Scene):
    """Otherwise the version of the service key that encrypted it could never be destroyed."""
    client = scene.client()
    opaque = structure(Tag.OPAQUE_OBJECT, choice(Tag.OPAQUE_DATA_TYPE, 1), octets(Tag.OPAQUE_DATA_VALUE, b"x"))
    template = structure(Tag.TEMPLATE, attribute("Cryptographic Length", number(VALUE, 256)), a_name("template"))
    for kind, content in ((ObjectType.OPAQUE_OBJECT, opaque), (ObjectType.TEMPLATE, template)):
        stored = (await client.ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, kind), content)).object_id
        with scene.base.crypto.tenant_tx(scene.tenant) as tx:
            assert [(use.version, use.objects) for use in tx.objects.versions()] == [(1, 1)]
        assert (await client.about(Operation.DESTROY, stored)).reason is None
        with scene.base.crypto.tenant_tx(scene.tenant) as tx:
            assert tx.objects.versions() == []
        found = (await client.about(Operation.GET_ATTRIBUTES, stored)).attributes
        assert "Destroy Date" in found
        assert "State" not in found
        for operation in (Operation.DESTROY, Operation.GET, Operation.ARCHIVE, Operation.OBTAIN_LEASE):
            assert (await client.about(operation, stored)).reason is ResultReason.ITEM_NOT_FOUND
