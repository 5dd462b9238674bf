"""Every change of a managed object has its audit event, also if the log cannot be written."""

import json
from collections.abc import Awaitable, Callable

import pytest

from core.errors.platform import DatabaseUnavailable
from crypto_service.kmip.codec.enums import Operation, ResultReason
from crypto_service.kmip.codec.fields import choice, long, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from database.audit import AuditStream
from openkcm.contract.audit_events import AuditEvent
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, attribute, creation, custom

USAGE_LIMITS = attribute(
    "Usage Limits",
    structure(
        VALUE,
        long(Tag.USAGE_LIMITS_TOTAL, 100),
        long(Tag.USAGE_LIMITS_COUNT, 100),
        choice(Tag.USAGE_LIMITS_UNIT, 1),
    ),
)
ENCRYPT_AND_DERIVE = 0x0000_0204
COMPROMISED = structure(Tag.REVOCATION_REASON, choice(Tag.REVOCATION_REASON_CODE, 2))
HMAC = structure(
    Tag.DERIVATION_PARAMETERS,
    structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, 6)),
    octets(Tag.DERIVATION_DATA, b"data"),
)
PAIR = structure(
    Tag.COMMON_TEMPLATE_ATTRIBUTE,
    attribute("Cryptographic Algorithm", choice(VALUE, 6)),
    attribute("Cryptographic Length", number(VALUE, 256)),
    attribute("Cryptographic Usage Mask", number(VALUE, 3)),
)
OPAQUE = structure(
    Tag.OPAQUE_OBJECT, choice(Tag.OPAQUE_DATA_TYPE, 0x80000001), octets(Tag.OPAQUE_DATA_VALUE, b"opaque")
)


def renamed(value: str) -> Item:
    return custom("x-Owner", value)


CHANGES: dict[str, tuple[int, tuple[Item, ...], bool]] = {
    "create": (*creation()[:1], creation()[1:], False),
    "create a pair": (Operation.CREATE_KEY_PAIR, (PAIR,), False),
    "register": (Operation.REGISTER, (choice(Tag.OBJECT_TYPE, 8), OPAQUE), False),
    "derive": (
        Operation.DERIVE_KEY,
        (choice(Tag.OBJECT_TYPE, 2), choice(Tag.DERIVATION_METHOD, 3), HMAC, creation()[2]),
        True,
    ),
    "re-key": (Operation.REKEY, (), True),
    "add an attribute": (Operation.ADD_ATTRIBUTE, (renamed("a"),), True),
    "modify an attribute": (Operation.MODIFY_ATTRIBUTE, (custom("x-Place", "b"),), True),
    "delete an attribute": (Operation.DELETE_ATTRIBUTE, (text(Tag.ATTRIBUTE_NAME, "x-Place"),), True),
    "allocate": (Operation.GET_USAGE_ALLOCATION, (long(Tag.USAGE_LIMITS_COUNT, 5),), True),
    "revoke": (Operation.REVOKE, (COMPROMISED,), True),
    "archive": (Operation.ARCHIVE, (), True),
    "activate": (Operation.ACTIVATE, (), True),
    "recover": (Operation.RECOVER, (), True),
    "destroy": (Operation.DESTROY, (), True),
}
BEFORE: dict[str, Callable[[Client, str], Awaitable[object]]] = {
    "derive": lambda client, one: client.about(Operation.ACTIVATE, one),
    "allocate": lambda client, one: client.about(Operation.ACTIVATE, one),
    "recover": lambda client, one: client.about(Operation.ARCHIVE, one),
}


def recorded(scene: Scene) -> list[tuple[str, str]]:
    """Return operation and object of the tenant's change events."""
    with scene.base.worker.tenant_tx(scene.tenant) as tx:
        records = [json.loads(one.record) for one in tx.audit.records()]
    return [
        (record["details"]["operation"], record["subject"])
        for record in records
        if record["name"] == "crypto.key_changed"
    ]


@pytest.mark.parametrize("name", CHANGES)
async def test_change_is_recorded_although_the_log_cannot_be_written(scene: Scene, name: str):
    operation, payload, about = CHANGES[name]
    client = scene.client()
    one = await client.create(USAGE_LIMITS, custom("x-Place", "a"), mask=ENCRYPT_AND_DERIVE)
    if name in BEFORE:
        await BEFORE[name](client, one)
    before = recorded(scene)
    scene.journal.full = True
    named = (text(Tag.UNIQUE_IDENTIFIER, one),) if about else ()
    answer = await client.ask(operation, *named, *payload)
    assert answer.reason == ResultReason.GENERAL_FAILURE
    [(audited, subject)] = recorded(scene)[len(before) :]
    assert audited in {"create", "register", "rekey", "activate", "revoke", "destroy", "change-attributes"}
    if about and name not in {"derive", "re-key"}:
        assert subject == one


async def test_change_and_its_event_are_both_undone(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    """As if the process were killed after the last statement and before the commit."""
    client = scene.client()
    one = await client.create()
    before = recorded(scene)
    append = AuditStream.append

    def interrupted(stream: AuditStream, event: AuditEvent) -> int:
        append(stream, event)
        raise DatabaseUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(AuditStream, "append", interrupted)
        assert (await client.about(Operation.DESTROY, one)).reason == ResultReason.GENERAL_FAILURE
    assert recorded(scene) == before
    assert await client.state(one) == 1


async def test_logged_change_has_one_event_and_counts_as_usage(scene: Scene):
    client = scene.client()
    one = await client.create()
    await client.about(Operation.ACTIVATE, one)
    await client.get(one)
    await client.about(Operation.ACTIVATE, one)  # rejected: it is active
    assert recorded(scene) == [("create", one), ("activate", one)]
    assert [(entry.operation, entry.recorded, entry.refused) for entry in scene.journal.entries] == [
        ("create", True, ""),
        ("activate", True, ""),
        ("get", False, ""),
        ("activate", False, "key_not_usable"),
    ]


async def test_use_that_changes_an_object_is_no_change_event(scene: Scene):
    """Encrypt with usage limits, and the first Get, which makes the object no longer fresh."""
    client = scene.client()
    one = await client.activated(USAGE_LIMITS)
    before = recorded(scene)
    await client.encrypt(one, b"data")
    await client.get(one)
    assert recorded(scene) == before
