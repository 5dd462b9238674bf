"""What a service may do, with real keys of two tenants and two services."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest

from core.correlation import correlation_id
from core.errors.compliance import AuditUnavailable
from core.errors.services import CiphertextRefused, ClientNotAuthorized, InvalidRequest
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import Transition
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys import ciphertext
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.keys.operations import CryptoOperations
from database.postgres.notify import tenant_hash
from openkcm.errors import InvalidName, OpenKcmError
from tests.crypto_service.core.world import ADDRESS, Changes, Home, Journal, Looking, World, a_keyring, at_once

Call = Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True)
class Desk:
    """The operations over everything that is real, for callers that were identified."""

    callers: ClientCertificateAuthenticator
    keyring: ServiceKeyCache
    operations: CryptoOperations

    async def caller(self, home: Home, service: str) -> ClientIdentity:
        return await self.callers.identify(home.connect(service), ADDRESS)


@pytest.fixture
def desk(world: World, journal: Journal, changes: Changes) -> Desk:
    looking = Looking()
    callers = ClientCertificateAuthenticator(world.crypto, looking, journal, changes, cache_seconds=60)
    keyring = a_keyring(world, looking, changes)
    return Desk(callers, keyring, CryptoOperations(callers, keyring, journal))


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


async def test_what_a_service_encrypts_it_decrypts(desk: Desk, home: Home, journal: Journal):
    caller = await desk.caller(home, "orders")
    text = await desk.operations.encrypt(caller, "customer/1", b"a record")
    assert text.startswith("okcm:v1:")
    assert await desk.operations.decrypt(caller, "customer/1", text) == b"a record"
    assert [(e.operation, e.subject, e.refused, e.bytes) for e in journal.entries] == [
        ("encrypt", "customer/1", "", 8),
        ("decrypt", "customer/1", "", len(text)),
    ]
    assert {(e.tenant_id, e.service, e.source) for e in journal.entries} == {(home.tenant_id, "orders", ADDRESS)}
    token = correlation_id.set("request-7")
    for resource in ("鍵" * 512, "🔑" * 512, "a\x00b", "x" * 512):  # the longest that is allowed, in any script
        text = await desk.operations.encrypt(caller, resource, b"data")
        assert await desk.operations.decrypt(caller, resource, text) == b"data"
    correlation_id.reset(token)
    assert {e.correlation_id for e in journal.entries[2:]} == {"request-7"}
    assert not {"", "request-7"} & {e.correlation_id for e in journal.entries[:2]}


async def test_the_journal_says_how_long_the_work_took_a_refusals_too(desk: Desk, home: Home, journal: Journal):
    moments = iter([0, 1, 5_000_000, 5_040_001])
    timed = CryptoOperations(desk.callers, desk.keyring, journal, timer=lambda: next(moments))
    caller = await desk.caller(home, "orders")
    await timed.encrypt(caller, "customer/1", b"a record")
    with pytest.raises(CiphertextRefused):
        await timed.decrypt(caller, "customer/1", "okcm:v1:AAAA")
    assert [(entry.refused, entry.microseconds) for entry in journal.entries] == [("", 1), ("ciphertext_refused", 41)]


async def test_nothing_gives_up_the_loop_when_all_is_in_memory(desk: Desk, home: Home, world: World):
    caller = await desk.caller(home, "orders")
    await desk.operations.encrypt(caller, "warm", b"")
    with world.field.server.offline(world.field.name):
        text = at_once(desk.operations.encrypt(caller, "r", b"data"))
        assert at_once(desk.operations.decrypt(caller, "r", text)) == b"data"
        text = at_once(desk.operations.rewrap(caller, "r", text))
        key = at_once(desk.operations.new_data_key(caller, "r", with_plaintext=True))
        assert at_once(desk.operations.open_data_key(caller, "r", key.wrapped)) == key.plaintext
        version, sealed = at_once(desk.operations.seal_object(caller, "object-1", b"material"))
        assert at_once(desk.operations.open_object(caller, "object-1", version, sealed)) == b"material"


async def test_another_tenant_service_or_resource_gets_the_same_refusal(
    desk: Desk, home: Home, world: World, journal: Journal
):
    owner = await desk.caller(home, "orders")
    text = await desk.operations.encrypt(owner, "customer/1", b"a record")
    wrapped = (await desk.operations.new_data_key(owner, "customer/1", with_plaintext=False)).wrapped
    version, sealed = await desk.operations.seal_object(owner, "object-1", b"material")
    sibling = await desk.caller(home, "billing")
    stranger = await desk.caller(world.tenant(), "orders")
    journal.entries.clear()
    for caller, resource in ((sibling, "customer/1"), (stranger, "customer/1"), (owner, "customer/2")):
        for attempt in (
            desk.operations.decrypt(caller, resource, text),
            desk.operations.rewrap(caller, resource, text),
            desk.operations.open_data_key(caller, resource, wrapped),
        ):
            with pytest.raises(CiphertextRefused):
                await attempt
        assert journal.refusals() == [
            (caller.tenant_id, operation, "ciphertext_refused") for operation in ("decrypt", "rewrap", "data-key")
        ]
        journal.entries.clear()
    for caller, object_id in ((sibling, "object-1"), (stranger, "object-1"), (owner, "object-2")):
        with pytest.raises(CiphertextRefused):
            await desk.operations.open_object(caller, object_id, version, sealed)
    assert journal.entries == []


async def test_each_kind_of_text_opens_through_its_own_door_only(desk: Desk, home: Home):
    caller = await desk.caller(home, "orders")
    text = await desk.operations.encrypt(caller, "r", b"data")
    wrapped = (await desk.operations.new_data_key(caller, "r", with_plaintext=False)).wrapped
    version, sealed = await desk.operations.seal_object(caller, "r", b"material")
    for attempt in (
        desk.operations.decrypt(caller, "r", wrapped),
        desk.operations.open_data_key(caller, "r", text),
        desk.operations.decrypt(caller, "r", ciphertext.to_text(sealed)),
        desk.operations.open_data_key(caller, "r", ciphertext.to_text(sealed)),
        desk.operations.rewrap(caller, "r", ciphertext.to_text(sealed)),
        desk.operations.open_object(caller, "r", version, ciphertext.from_text(text)),
        desk.operations.open_object(caller, "r", version, ciphertext.from_text(wrapped)),
    ):
        with pytest.raises(CiphertextRefused):
            await attempt


async def test_a_new_data_key_is_released_once_or_not_at_all(desk: Desk, home: Home, journal: Journal):
    caller = await desk.caller(home, "orders")
    released = await desk.operations.new_data_key(caller, "r", with_plaintext=True)
    kept = await desk.operations.new_data_key(caller, "r", with_plaintext=False)
    assert released.plaintext is not None
    assert kept.plaintext is None
    assert len(await desk.operations.open_data_key(caller, "r", kept.wrapped)) == 32
    assert await desk.operations.open_data_key(caller, "r", released.wrapped) == released.plaintext
    assert [entry.operation for entry in journal.entries] == ["data-key", "wrapped-data-key", "data-key", "data-key"]
    assert repr(released.plaintext)[2:-1] not in repr(released)


async def test_rewrapping_moves_to_the_newest_key_and_both_kinds_keep_what_they_hold(
    desk: Desk, home: Home, changes: Changes
):
    caller = await desk.caller(home, "orders")
    text = await desk.operations.encrypt(caller, "r", b"data")
    key = await desk.operations.new_data_key(caller, "r", with_plaintext=True)
    version, sealed = await desk.operations.seal_object(caller, "object-1", b"material")
    home.new_key("orders", 2)
    changes.tell(tenant_hash(home.tenant_id))
    new_text = await desk.operations.rewrap(caller, "r", text)
    new_wrapped = await desk.operations.rewrap(caller, "r", key.wrapped)
    encrypted = await desk.operations.encrypt(caller, "r", b"data")
    made = (await desk.operations.new_data_key(caller, "r", with_plaintext=True)).wrapped
    texts = new_text, new_wrapped, encrypted, made
    assert {ciphertext.header(ciphertext.from_text(one)).key_version for one in texts} == {2}
    for one in (text, new_text):
        assert await desk.operations.decrypt(caller, "r", one) == b"data"
    assert await desk.operations.open_data_key(caller, "r", new_wrapped) == key.plaintext
    assert version == 1
    assert await desk.operations.open_object(caller, "object-1", 1, sealed) == b"material"
    assert (await desk.operations.seal_object(caller, "object-1", b"material"))[0] == 2


async def test_a_key_version_that_was_never_made_is_a_refused_ciphertext(desk: Desk, home: Home):
    caller = await desk.caller(home, "orders")
    sealed = ciphertext.from_text(await desk.operations.encrypt(caller, "r", b"data"))
    for version in (2, 2**31, 2**32 - 1):
        text = ciphertext.to_text(sealed[:1] + version.to_bytes(4, "big") + sealed[5:])
        with pytest.raises(CiphertextRefused):
            await desk.operations.decrypt(caller, "r", text)
    with pytest.raises(CiphertextRefused):
        await desk.operations.open_object(caller, "r", 2, sealed)


def calls(desk: Desk, caller: ClientIdentity, made: dict[str, Any]) -> dict[str, Call]:
    return {
        "encrypt": lambda: desk.operations.encrypt(caller, "r", b"data"),
        "rewrap": lambda: desk.operations.rewrap(caller, "r", made["text"]),
        "new key": lambda: desk.operations.new_data_key(caller, "r", with_plaintext=True),
        "new wrapped key": lambda: desk.operations.new_data_key(caller, "r", with_plaintext=False),
        "seal": lambda: desk.operations.seal_object(caller, "o", b"material"),
        "decrypt": lambda: desk.operations.decrypt(caller, "r", made["text"]),
        "open key": lambda: desk.operations.open_data_key(caller, "r", made["wrapped"]),
        "open": lambda: desk.operations.open_object(caller, "o", *made["sealed"]),
    }


@pytest.mark.parametrize("word_came_first", [True, False])
async def test_a_tenant_that_is_not_active_makes_nothing_and_one_that_is_locked_gets_nothing(
    desk: Desk, home: Home, changes: Changes, *, word_came_first: bool
):
    caller = await desk.caller(home, "orders")
    made = {
        "text": await desk.operations.encrypt(caller, "r", b"data"),
        "wrapped": (await desk.operations.new_data_key(caller, "r", with_plaintext=False)).wrapped,
        "sealed": await desk.operations.seal_object(caller, "o", b"material"),
    }
    home.move(Transition.SUSPEND)
    changes.tell(tenant_hash(home.tenant_id))
    # With the caller as it was, and as whoever looked again first has it.
    asking = await desk.callers.refresh(caller) if word_came_first else caller
    for name, call in calls(desk, asking, made).items():
        if name in {"decrypt", "open key", "open"}:
            await call()
        else:
            with pytest.raises(TenantNotOperational):
                await call()
    home.move(Transition.LOCK)
    changes.tell(tenant_hash(home.tenant_id))
    for call in calls(desk, asking, made).values():
        with pytest.raises(TenantNotOperational):
            await call()


async def test_a_lock_that_is_heard_of_while_the_key_opens_stops_the_answer(
    world: World, home: Home, journal: Journal, changes: Changes
):
    async def lock() -> None:
        await asyncio.to_thread(home.move, Transition.LOCK)
        changes.tell(tenant_hash(home.tenant_id))

    callers = ClientCertificateAuthenticator(world.crypto, Looking(), journal, changes, cache_seconds=60)
    keyring = a_keyring(world, Looking(after_first=lock), changes)
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    with pytest.raises(TenantNotOperational):
        await CryptoOperations(callers, keyring, journal).encrypt(caller, "r", b"data")
    assert all(entry.refused == "tenant_closed" for entry in journal.entries)
    assert {entry.operation for entry in journal.entries} == {"connect", "encrypt"}


async def test_without_its_record_nothing_is_answered(desk: Desk, home: Home, journal: Journal):
    caller = await desk.caller(home, "orders")
    text = await desk.operations.encrypt(caller, "r", b"data")
    journal.full = True
    for attempt in (
        desk.operations.encrypt(caller, "r", b"data"),
        desk.operations.decrypt(caller, "r", text),
        desk.operations.decrypt(caller, "elsewhere", text),
        desk.operations.rewrap(caller, "r", text),
        desk.operations.new_data_key(caller, "r", with_plaintext=True),
    ):
        with pytest.raises(AuditUnavailable):
            await attempt


@pytest.mark.parametrize(
    ("resource", "error"),
    [("", InvalidRequest), ("x" * 513, InvalidRequest), ("\ud800", InvalidName), ("x\udfffx", InvalidName)],
)
async def test_a_resource_that_cannot_be_one_is_refused_and_on_record(
    desk: Desk, home: Home, journal: Journal, resource: str, error: type[OpenKcmError]
):
    caller = await desk.caller(home, "orders")
    text = await desk.operations.encrypt(caller, "r", b"data")
    journal.entries.clear()
    for attempt in (
        desk.operations.encrypt(caller, resource, b"data"),
        desk.operations.decrypt(caller, resource, text),
        desk.operations.new_data_key(caller, resource, with_plaintext=True),
    ):
        with pytest.raises(error):
            await attempt
    assert len(journal.refusals()) == 3
    assert all(len(entry.subject.encode()) <= 512 for entry in journal.entries)


@pytest.mark.parametrize("claim", [{"service": "orders"}, {"tenant_id": "somebody-else"}, {"region": "us-east-1"}])
async def test_what_a_caller_is_made_to_say_does_not_outweigh_its_certificate(
    desk: Desk, home: Home, claim: dict[str, str]
):
    text = await desk.operations.encrypt(await desk.caller(home, "orders"), "r", b"data")
    sibling = await desk.caller(home, "billing")
    with pytest.raises((ClientNotAuthorized, CiphertextRefused)):
        await desk.operations.decrypt(replace(sibling, **claim), "r", text)
