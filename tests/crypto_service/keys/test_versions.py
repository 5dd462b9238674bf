"""Versions of service keys, with real keys: what each may still decrypt."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from core.errors.compliance import AuditUnavailable
from core.errors.keys import KeyUnavailable, KeyVersionRetired
from core.errors.platform import DatabaseUnavailable
from core.errors.services import CiphertextRefused
from core.keys.encryption_context import EncryptionContext, Purpose
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys import ciphertext
from crypto_service.keys.unwrap_audit import UnwrapAudit
from crypto_service.server.executor import FairExecutor
from database.postgres.change_feed import tenant_hash
from kms.interfaces import RootKey
from tests.concurrency import wait_until_async
from tests.crypto_service.core.world import Changes, Clock, CountingExecutor, Home, Journal, World, a_keyring
from tests.crypto_service.keys.test_key_cache import clock, home
from tests.crypto_service.keys.test_operations import OperationsStack, stack
from vault.transit.keys import encoded

__all__ = ["clock", "home", "stack"]  # fixtures that pytest finds by name


@dataclass
class Texts:
    """The ciphertexts of version 1, after version 2 has become active."""

    caller: ClientIdentity
    text: str
    wrapped: str
    sealed: bytes
    uses: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)


@pytest.fixture
async def texts(stack: OperationsStack, home: Home, changes: Changes) -> Texts:
    caller, operations = await stack.caller(home, "users"), stack.operations
    text = await operations.encrypt(caller, "r", b"data")
    made = await operations.new_data_key(caller, "r", with_plaintext=False)
    _, sealed = await operations.seal_object(caller, "object-1", b"material")
    home.new_key("users", 2)
    changes.tell(tenant_hash(home.tenant_id))
    uses: dict[str, Callable[[], Awaitable[object]]] = {
        "decrypt": lambda: operations.decrypt(caller, "r", text),
        "rewrap": lambda: operations.rewrap(caller, "r", text),
        "rewrap a data key": lambda: operations.rewrap(caller, "r", made.wrapped),
        "open a data key": lambda: operations.open_data_key(caller, "r", made.wrapped),
    }
    return Texts(caller, text, made.wrapped, sealed, uses)


async def test_compromised_version_decrypts_only_managed_objects(
    stack: OperationsStack, home: Home, texts: Texts, changes: Changes, journal: Journal
) -> None:
    for use in texts.uses.values():
        await use()  # now cached, which must not help
    home.compromised("users", 1)
    changes.tell(tenant_hash(home.tenant_id))
    for use in texts.uses.values():
        with pytest.raises(KeyVersionRetired):
            await use()
    assert await stack.operations.open_object(texts.caller, "object-1", 1, texts.sealed) == b"material"
    # Also when it is in memory for managed objects.
    for use in texts.uses.values():
        with pytest.raises(KeyVersionRetired):
            await use()
    assert {refused for _, _, refused in journal.refusals()} == {"key_version_retired"}
    assert await stack.operations.encrypt(texts.caller, "r", b"data")


async def test_destroyed_version_decrypts_nothing_and_differs_from_an_unknown_one(
    stack: OperationsStack, home: Home, texts: Texts, changes: Changes
) -> None:
    home.destroyed("users", 1)
    changes.tell(tenant_hash(home.tenant_id))
    for use in texts.uses.values():
        with pytest.raises(KeyVersionRetired):
            await use()
    with pytest.raises(KeyVersionRetired):
        await stack.operations.open_object(texts.caller, "object-1", 1, texts.sealed)
    never = ciphertext.to_text(texts.sealed[:1] + (3).to_bytes(4, "big") + texts.sealed[5:])
    with pytest.raises(CiphertextRefused):
        await stack.operations.decrypt(texts.caller, "r", never)


async def test_prepared_version_neither_encrypts_nor_decrypts(
    stack: OperationsStack, home: Home, texts: Texts, changes: Changes
) -> None:
    text = await stack.operations.encrypt(texts.caller, "r", b"data")
    home.update("users", "state = 'prepared'", "version = 2")
    home.update("users", "state = 'active'", "version = 1")
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(CiphertextRefused):
        await stack.operations.decrypt(texts.caller, "r", text)
    again = await stack.operations.encrypt(texts.caller, "r", b"data")
    assert ciphertext.header(ciphertext.from_text(again)).key_version == 1


@dataclass
class RetiringRoot:
    """The platform's root key, which calls `meanwhile` during the first unwrap."""

    root: RootKey
    meanwhile: Callable[[], None]
    asked: int = 0

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        self.asked += 1
        inner = self.root.unwrap(context, wrapped)
        if self.asked == 1:
            self.meanwhile()
        return inner


def rewrap_under_a_new_l2_and_retire_the_old(home: Home, service: str) -> None:
    """Do the last steps of an L2 rotation: re-wrap every key, then disable the old version."""
    world, admin = home.world, home.world.vault.admin()
    context = EncryptionContext(home.tenant_id, home.l2_key, service, Purpose.SERVICE_KEY, "1")
    with world.worker.tenant_tx(home.tenant_id) as tx:
        row = tx.services.key(service)
    assert row is not None
    inner = world.root.unwrap(context, row.wrapped).decode()
    admin.write(f"transit/keys/{home.l2_key}/rotate")
    rewrapped = admin.write(
        f"transit/rewrap/{home.l2_key}", {"ciphertext": inner, "context": encoded(context.encode())}
    )
    with world.worker.raw_tx(home.tenant_id) as connection:
        connection.execute(
            "update okcm.service_key set wrapped = %s, l2_version = 2 where service = %s",
            [world.root.wrap(context, rewrapped["ciphertext"].encode()), service],
        )
    admin.write(f"transit/keys/{home.l2_key}/config", {"min_decryption_version": 2, "min_encryption_version": 2})


async def test_unwrap_with_a_retired_l2_version_reads_the_row_again(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    before = await a_keyring(world, CountingExecutor(), changes, clock).key(home.caller())
    root = RetiringRoot(world.own_root, lambda: rewrap_under_a_new_l2_and_retire_the_old(home, "orders"))
    keyring = a_keyring(world, CountingExecutor(), changes, clock, root)  # type: ignore[arg-type]  # all that is called
    assert await keyring.key(home.caller()) == before
    assert root.asked == 2


async def test_deleted_l2_is_not_called_twice(world: World, home: Home, changes: Changes, clock: Clock) -> None:
    root = RetiringRoot(world.own_root, lambda: world.tenant_keys.disable(home.tenant_id))
    keyring = a_keyring(world, CountingExecutor(), changes, clock, root)  # type: ignore[arg-type]  # the same
    with pytest.raises(KeyUnavailable):
        await keyring.key(home.caller())
    assert root.asked == 1


async def test_time_of_an_unwrap_is_recorded_but_not_of_a_cache_hit(
    world: World, home: Home, changes: Changes, clock: Clock, threads: FairExecutor
) -> None:
    keyring = a_keyring(world, CountingExecutor(), changes, clock)
    keyring._opened = UnwrapAudit(world.crypto, threads, Journal(), clock).opened

    def recorded_time() -> object:
        return home.version("orders", 1).last_opened_at

    assert recorded_time() is None
    await keyring.key(home.caller())
    await wait_until_async(lambda: recorded_time() is not None)
    first = recorded_time()
    with world.field.administrator() as administrator:
        administrator.execute("update okcm.service_key set last_opened_at = last_opened_at - interval '1 hour'")
    await keyring.key(home.caller())  # from memory
    changes.tell(None)
    await keyring.key(home.caller())  # unwrapped again, within the minute
    await asyncio.sleep(0.2)
    assert recorded_time() != first
    clock.now += 61
    await keyring.key(home.caller())
    await wait_until_async(lambda: recorded_time() > first)  # type: ignore[operator]  # a time by now


async def test_key_is_not_used_without_the_audit_entry_of_its_unwrap(
    world: World, home: Home, changes: Changes, clock: Clock, threads: FairExecutor
) -> None:
    journal = Journal(full=True)
    keyring = a_keyring(world, CountingExecutor(), changes, clock)
    keyring._opened = UnwrapAudit(world.crypto, threads, journal, clock).opened
    with pytest.raises(AuditUnavailable):
        await keyring.key(home.caller())
    assert keyring._tenants[home.tenant_id].entries == {}
    journal.full, clock.now = False, clock.now + 1
    assert (await keyring.key(home.caller())).version == 1
    await keyring.key(home.caller())  # from memory: one unwrap, one entry
    assert [(e.operation, e.service, e.subject) for e in journal.entries] == [("open", "orders", "1")]


async def test_failed_recording_of_an_unwrap_time_is_repeated_with_the_next_unwrap(
    world: World, home: Home, changes: Changes, clock: Clock, threads: FairExecutor
) -> None:
    class Away:
        async def run(self, _tenant_id: str, _work: object) -> None:
            raise DatabaseUnavailable

    keyring = a_keyring(world, CountingExecutor(), changes, clock)
    unwrap_audit = UnwrapAudit(world.crypto, Away(), Journal(), clock)  # type: ignore[arg-type]  # all that is called
    keyring._opened = unwrap_audit.opened
    assert (await keyring.key(home.caller())).version == 1
    await asyncio.sleep(0)
    unwrap_audit._blocking = threads
    changes.tell(None)
    await keyring.key(home.caller())
    await wait_until_async(lambda: home.version("orders", 1).last_opened_at is not None)
