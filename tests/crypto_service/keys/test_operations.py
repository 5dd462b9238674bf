"""The operations of a service, with real keys of two tenants and two services."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest

from core.correlation import correlation_id
from core.errors.compliance import AuditUnavailable
from core.errors.keys import KeyVersionRetired
from core.errors.services import CiphertextRefused, ClientNotAuthorized, InvalidRequest
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import Transition
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys import ciphertext
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.keys.operations import CryptoOperations
from database.postgres.change_feed import tenant_hash
from openkcm.errors import InvalidName, OpenKcmError
from tests.crypto_service.core.world import (
    ADDRESS,
    Changes,
    CountingExecutor,
    Home,
    Journal,
    World,
    a_keyring,
    at_once,
    never_locked,
)

Call = Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True)
class OperationsStack:
    """The operations over real dependencies, for identified callers."""

    callers: ClientCertificateAuthenticator
    keyring: ServiceKeyCache
    operations: CryptoOperations

    async def caller(self, home: Home, service: str) -> ClientIdentity:
        return await self.callers.identify(home.connect(service), ADDRESS)


@pytest.fixture
def stack(world: World, journal: Journal, changes: Changes) -> OperationsStack:
    executor = CountingExecutor()
    callers = ClientCertificateAuthenticator(
        world.crypto, executor, journal, changes, is_locked=never_locked, cache_seconds=60
    )
    keyring = a_keyring(world, executor, changes)
    return OperationsStack(callers, keyring, CryptoOperations(callers, keyring, journal))


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


async def test_service_decrypts_what_it_encrypted(stack: OperationsStack, home: Home, journal: Journal):
    caller = await stack.caller(home, "orders")
    text = await stack.operations.encrypt(caller, "customer/1", b"a record")
    assert text.startswith("okcm:v1:")
    assert await stack.operations.decrypt(caller, "customer/1", text) == b"a record"
    assert [(e.operation, e.subject, e.refused, e.bytes) for e in journal.entries] == [
        ("encrypt", "customer/1", "", 8),
        ("decrypt", "customer/1", "", len(text)),
    ]
    assert {(e.tenant_id, e.service, e.source) for e in journal.entries} == {(home.tenant_id, "orders", ADDRESS)}
    token = correlation_id.set("request-7")
    for resource in ("鍵" * 512, "🔑" * 512, "a\x00b", "x" * 512):  # the maximum length, in any script
        text = await stack.operations.encrypt(caller, resource, b"data")
        assert await stack.operations.decrypt(caller, resource, text) == b"data"
    correlation_id.reset(token)
    assert {e.correlation_id for e in journal.entries[2:]} == {"request-7"}
    assert not {"", "request-7"} & {e.correlation_id for e in journal.entries[:2]}


async def test_audit_entry_contains_duration_also_for_rejections(stack: OperationsStack, home: Home, journal: Journal):
    moments = iter([0, 1, 5_000_000, 5_040_001])
    timed = CryptoOperations(stack.callers, stack.keyring, journal, timer=lambda: next(moments))
    caller = await stack.caller(home, "orders")
    await timed.encrypt(caller, "customer/1", b"a record")
    with pytest.raises(CiphertextRefused):
        await timed.decrypt(caller, "customer/1", "okcm:v1:AAAA")
    assert [(entry.refused, entry.microseconds) for entry in journal.entries] == [("", 1), ("ciphertext_refused", 41)]


async def test_operations_do_not_suspend_when_everything_is_cached(stack: OperationsStack, home: Home, world: World):
    caller = await stack.caller(home, "orders")
    await stack.operations.encrypt(caller, "warm", b"")
    with world.field.server.offline(world.field.name):
        text = at_once(stack.operations.encrypt(caller, "r", b"data"))
        assert at_once(stack.operations.decrypt(caller, "r", text)) == b"data"
        text = at_once(stack.operations.rewrap(caller, "r", text))
        key = at_once(stack.operations.new_data_key(caller, "r", with_plaintext=True))
        assert at_once(stack.operations.open_data_key(caller, "r", key.wrapped)) == key.plaintext
        version, sealed = at_once(stack.operations.seal_object(caller, "object-1", b"material"))
        assert at_once(stack.operations.open_object(caller, "object-1", version, sealed)) == b"material"


@pytest.mark.parametrize("rewraps", [False, True])
async def test_key_that_is_compromised_while_it_is_awaited_encrypts_nothing(
    world: World, home: Home, journal: Journal, changes: Changes, *, rewraps: bool
):
    """The root key is slow, and the change is committed and notified before it answers."""

    async def compromise() -> None:
        await asyncio.to_thread(home.new_key, "orders", 2)
        await asyncio.to_thread(home.compromised, "orders", 1)
        changes.tell(tenant_hash(home.tenant_id))

    executor = CountingExecutor()
    callers = ClientCertificateAuthenticator(
        world.crypto, executor, journal, changes, is_locked=never_locked, cache_seconds=60
    )
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    before = CryptoOperations(callers, a_keyring(world, executor, changes), journal)
    text = await before.encrypt(caller, "customer/1", b"a record")
    slow = a_keyring(world, CountingExecutor(after_first=compromise), changes)
    operations = CryptoOperations(callers, slow, journal)
    if rewraps:
        with pytest.raises(KeyVersionRetired):
            await operations.rewrap(caller, "customer/1", text)
    else:
        text = await operations.encrypt(caller, "customer/1", b"a record")
        assert ciphertext.header(ciphertext.from_text(text)).key_version == 2
        assert await operations.decrypt(caller, "customer/1", text) == b"a record"


async def test_other_tenant_service_or_resource_gets_the_same_rejection(
    stack: OperationsStack, home: Home, world: World, journal: Journal
):
    owner = await stack.caller(home, "orders")
    text = await stack.operations.encrypt(owner, "customer/1", b"a record")
    wrapped = (await stack.operations.new_data_key(owner, "customer/1", with_plaintext=False)).wrapped
    version, sealed = await stack.operations.seal_object(owner, "object-1", b"material")
    other_service = await stack.caller(home, "billing")
    other_tenant = await stack.caller(world.tenant(), "orders")
    journal.entries.clear()
    for caller, resource in ((other_service, "customer/1"), (other_tenant, "customer/1"), (owner, "customer/2")):
        for attempt in (
            stack.operations.decrypt(caller, resource, text),
            stack.operations.rewrap(caller, resource, text),
            stack.operations.open_data_key(caller, resource, wrapped),
        ):
            with pytest.raises(CiphertextRefused):
                await attempt
        assert journal.refusals() == [
            (caller.tenant_id, operation, "ciphertext_refused") for operation in ("decrypt", "rewrap", "data-key")
        ]
        journal.entries.clear()
    for caller, object_id in ((other_service, "object-1"), (other_tenant, "object-1"), (owner, "object-2")):
        with pytest.raises(CiphertextRefused):
            await stack.operations.open_object(caller, object_id, version, sealed)
    assert journal.entries == []


async def test_each_purpose_decrypts_only_through_its_own_operation(stack: OperationsStack, home: Home):
    caller = await stack.caller(home, "orders")
    text = await stack.operations.encrypt(caller, "r", b"data")
    wrapped = (await stack.operations.new_data_key(caller, "r", with_plaintext=False)).wrapped
    version, sealed = await stack.operations.seal_object(caller, "r", b"material")
    for attempt in (
        stack.operations.decrypt(caller, "r", wrapped),
        stack.operations.open_data_key(caller, "r", text),
        stack.operations.decrypt(caller, "r", ciphertext.to_text(sealed)),
        stack.operations.open_data_key(caller, "r", ciphertext.to_text(sealed)),
        stack.operations.rewrap(caller, "r", ciphertext.to_text(sealed)),
        stack.operations.open_object(caller, "r", version, ciphertext.from_text(text)),
        stack.operations.open_object(caller, "r", version, ciphertext.from_text(wrapped)),
    ):
        with pytest.raises(CiphertextRefused):
            await attempt


async def test_new_data_key_is_released_only_on_request(stack: OperationsStack, home: Home, journal: Journal):
    caller = await stack.caller(home, "orders")
    released = await stack.operations.new_data_key(caller, "r", with_plaintext=True)
    kept = await stack.operations.new_data_key(caller, "r", with_plaintext=False)
    assert released.plaintext is not None
    assert kept.plaintext is None
    assert len(await stack.operations.open_data_key(caller, "r", kept.wrapped)) == 32
    assert await stack.operations.open_data_key(caller, "r", released.wrapped) == released.plaintext
    assert [entry.operation for entry in journal.entries] == ["data-key", "wrapped-data-key", "data-key", "data-key"]
    assert repr(released.plaintext)[2:-1] not in repr(released)


async def test_rewrap_uses_the_active_key_and_keeps_the_content(stack: OperationsStack, home: Home, changes: Changes):
    caller = await stack.caller(home, "orders")
    text = await stack.operations.encrypt(caller, "r", b"data")
    key = await stack.operations.new_data_key(caller, "r", with_plaintext=True)
    version, sealed = await stack.operations.seal_object(caller, "object-1", b"material")
    home.new_key("orders", 2)
    changes.tell(tenant_hash(home.tenant_id))
    new_text = await stack.operations.rewrap(caller, "r", text)
    new_wrapped = await stack.operations.rewrap(caller, "r", key.wrapped)
    encrypted = await stack.operations.encrypt(caller, "r", b"data")
    made = (await stack.operations.new_data_key(caller, "r", with_plaintext=True)).wrapped
    texts = new_text, new_wrapped, encrypted, made
    assert {ciphertext.header(ciphertext.from_text(one)).key_version for one in texts} == {2}
    for one in (text, new_text):
        assert await stack.operations.decrypt(caller, "r", one) == b"data"
    assert await stack.operations.open_data_key(caller, "r", new_wrapped) == key.plaintext
    assert version == 1
    assert await stack.operations.open_object(caller, "object-1", 1, sealed) == b"material"
    assert (await stack.operations.seal_object(caller, "object-1", b"material"))[0] == 2


async def test_ciphertext_with_unknown_key_version_is_rejected(stack: OperationsStack, home: Home):
    caller = await stack.caller(home, "orders")
    sealed = ciphertext.from_text(await stack.operations.encrypt(caller, "r", b"data"))
    for version in (2, 2**31, 2**32 - 1):
        text = ciphertext.to_text(sealed[:1] + version.to_bytes(4, "big") + sealed[5:])
        with pytest.raises(CiphertextRefused):
            await stack.operations.decrypt(caller, "r", text)
    with pytest.raises(CiphertextRefused):
        await stack.operations.open_object(caller, "r", 2, sealed)


def calls(stack: OperationsStack, caller: ClientIdentity, made: dict[str, Any]) -> dict[str, Call]:
    return {
        "encrypt": lambda: stack.operations.encrypt(caller, "r", b"data"),
        "rewrap": lambda: stack.operations.rewrap(caller, "r", made["text"]),
        "new key": lambda: stack.operations.new_data_key(caller, "r", with_plaintext=True),
        "new wrapped key": lambda: stack.operations.new_data_key(caller, "r", with_plaintext=False),
        "seal": lambda: stack.operations.seal_object(caller, "o", b"material"),
        "decrypt": lambda: stack.operations.decrypt(caller, "r", made["text"]),
        "open key": lambda: stack.operations.open_data_key(caller, "r", made["wrapped"]),
        "open": lambda: stack.operations.open_object(caller, "o", *made["sealed"]),
    }


@pytest.mark.parametrize("refreshed", [True, False])
async def test_suspended_tenant_cannot_encrypt_and_locked_tenant_cannot_decrypt(
    stack: OperationsStack, home: Home, changes: Changes, *, refreshed: bool
):
    caller = await stack.caller(home, "orders")
    made = {
        "text": await stack.operations.encrypt(caller, "r", b"data"),
        "wrapped": (await stack.operations.new_data_key(caller, "r", with_plaintext=False)).wrapped,
        "sealed": await stack.operations.seal_object(caller, "o", b"material"),
    }
    home.move(Transition.SUSPEND)
    changes.tell(tenant_hash(home.tenant_id))
    # With the caller as it was before the change, or as a refresh returns it.
    asking = await stack.callers.refresh(caller) if refreshed else caller
    for name, call in calls(stack, asking, made).items():
        if name in {"decrypt", "open key", "open"}:
            await call()
        else:
            with pytest.raises(TenantNotOperational):
                await call()
    home.move(Transition.LOCK)
    changes.tell(tenant_hash(home.tenant_id))
    for call in calls(stack, asking, made).values():
        with pytest.raises(TenantNotOperational):
            await call()


async def test_lock_during_an_unwrap_rejects_the_operation(
    world: World, home: Home, journal: Journal, changes: Changes
):
    async def lock() -> None:
        await asyncio.to_thread(home.move, Transition.LOCK)
        changes.tell(tenant_hash(home.tenant_id))

    callers = ClientCertificateAuthenticator(
        world.crypto, CountingExecutor(), journal, changes, is_locked=never_locked, cache_seconds=60
    )
    keyring = a_keyring(world, CountingExecutor(after_first=lock), changes)
    caller = await callers.identify(home.connect("orders"), ADDRESS)
    with pytest.raises(TenantNotOperational):
        await CryptoOperations(callers, keyring, journal).encrypt(caller, "r", b"data")
    assert all(entry.refused == "tenant_not_operational" for entry in journal.entries)
    assert {entry.operation for entry in journal.entries} == {"connect", "encrypt"}


async def test_operation_fails_without_its_audit_entry(stack: OperationsStack, home: Home, journal: Journal):
    caller = await stack.caller(home, "orders")
    text = await stack.operations.encrypt(caller, "r", b"data")
    journal.full = True
    for attempt in (
        stack.operations.encrypt(caller, "r", b"data"),
        stack.operations.decrypt(caller, "r", text),
        stack.operations.decrypt(caller, "elsewhere", text),
        stack.operations.rewrap(caller, "r", text),
        stack.operations.new_data_key(caller, "r", with_plaintext=True),
    ):
        with pytest.raises(AuditUnavailable):
            await attempt


@pytest.mark.parametrize(
    ("resource", "error"),
    [("", InvalidRequest), ("x" * 513, InvalidRequest), ("\ud800", InvalidName), ("x\udfffx", InvalidName)],
)
async def test_invalid_resource_is_rejected_and_recorded(
    stack: OperationsStack, home: Home, journal: Journal, resource: str, error: type[OpenKcmError]
):
    caller = await stack.caller(home, "orders")
    text = await stack.operations.encrypt(caller, "r", b"data")
    journal.entries.clear()
    for attempt in (
        stack.operations.encrypt(caller, resource, b"data"),
        stack.operations.decrypt(caller, resource, text),
        stack.operations.new_data_key(caller, resource, with_plaintext=True),
    ):
        with pytest.raises(error):
            await attempt
    assert len(journal.refusals()) == 3
    assert all(len(entry.subject.encode()) <= 512 for entry in journal.entries)


@pytest.mark.parametrize("claim", [{"service": "orders"}, {"tenant_id": "other-tenant"}, {"region": "us-east-1"}])
async def test_altered_caller_does_not_override_its_certificate(
    stack: OperationsStack, home: Home, claim: dict[str, str]
):
    text = await stack.operations.encrypt(await stack.caller(home, "orders"), "r", b"data")
    other_service = await stack.caller(home, "billing")
    with pytest.raises((ClientNotAuthorized, CiphertextRefused)):
        await stack.operations.decrypt(replace(other_service, **claim), "r", text)
