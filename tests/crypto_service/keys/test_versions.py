"""Versions of service keys, with real keys: what each still opens, and that none ends before its time."""

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
from database.postgres.notify import tenant_hash
from kms.interfaces import RootKey
from tests.concurrency import wait_until_async
from tests.crypto_service.core.world import Changes, Clock, Home, Journal, Looking, World, a_keyring
from tests.crypto_service.keys.test_key_cache import clock, home
from tests.crypto_service.keys.test_operations import Desk, desk
from vault.transit.keys import encoded

__all__ = ["clock", "desk", "home"]  # fixtures that pytest finds here by their names


@dataclass
class Texts:
    """What a service has of version 1, when version 2 has become the active one."""

    caller: ClientIdentity
    text: str
    wrapped: str
    sealed: bytes
    uses: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)


@pytest.fixture
async def texts(desk: Desk, home: Home, changes: Changes) -> Texts:
    caller, operations = await desk.caller(home, "users"), desk.operations
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


async def test_a_compromised_version_opens_nothing_that_a_caller_brings_but_what_we_keep(
    desk: Desk, home: Home, texts: Texts, changes: Changes, journal: Journal
) -> None:
    for use in texts.uses.values():
        await use()  # open in memory, which must not help
    home.compromised("users", 1)
    changes.tell(tenant_hash(home.tenant_id))
    for use in texts.uses.values():
        with pytest.raises(KeyVersionRetired):
            await use()
    assert await desk.operations.open_object(texts.caller, "object-1", 1, texts.sealed) == b"material"
    # Also now that it is in memory for what we keep.
    for use in texts.uses.values():
        with pytest.raises(KeyVersionRetired):
            await use()
    assert {refused for _, _, refused in journal.refusals()} == {"key_version_retired"}
    assert await desk.operations.encrypt(texts.caller, "r", b"data")


async def test_a_destroyed_version_opens_nothing_and_is_told_from_one_that_never_was(
    desk: Desk, home: Home, texts: Texts, changes: Changes
) -> None:
    home.destroyed("users", 1)
    changes.tell(tenant_hash(home.tenant_id))
    for use in texts.uses.values():
        with pytest.raises(KeyVersionRetired):
            await use()
    with pytest.raises(KeyVersionRetired):
        await desk.operations.open_object(texts.caller, "object-1", 1, texts.sealed)
    never = ciphertext.to_text(texts.sealed[:1] + (3).to_bytes(4, "big") + texts.sealed[5:])
    with pytest.raises(CiphertextRefused):
        await desk.operations.decrypt(texts.caller, "r", never)


async def test_a_version_that_is_only_prepared_opens_and_encrypts_nothing(
    desk: Desk, home: Home, texts: Texts, changes: Changes
) -> None:
    text = await desk.operations.encrypt(texts.caller, "r", b"data")
    home.update("users", "state = 'prepared'", "version = 2")
    home.update("users", "state = 'active'", "version = 1")
    changes.tell(tenant_hash(home.tenant_id))
    with pytest.raises(CiphertextRefused):
        await desk.operations.decrypt(texts.caller, "r", text)
    again = await desk.operations.encrypt(texts.caller, "r", b"data")
    assert ciphertext.header(ciphertext.from_text(again)).key_version == 1


@dataclass
class RetiringRoot:
    """The platform's root key; while it unwraps, something happens at the inner layer."""

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
    """Do what a rotation of L2 ends with: every wrap made anew, then the old version opens nothing."""
    world, admin = home.world, home.world.vault.admin()
    context = EncryptionContext(home.tenant_id, home.l2_key, service, Purpose.SERVICE_KEY, "1")
    with world.worker.tenant_tx(home.tenant_id) as tx:
        row = tx.services.key(service)
    assert row is not None
    inner = world.root.unwrap(context, row.wrapped).decode()
    admin.write(f"transit/keys/{home.l2_key}/rotate")
    anew = admin.write(f"transit/rewrap/{home.l2_key}", {"ciphertext": inner, "context": encoded(context.encode())})
    with world.worker.raw_tx(home.tenant_id) as connection:
        connection.execute(
            "update okcm.service_key set wrapped = %s, l2_version = 2 where service = %s",
            [world.root.wrap(context, anew["ciphertext"].encode()), service],
        )
    admin.write(f"transit/keys/{home.l2_key}/config", {"min_decryption_version": 2, "min_encryption_version": 2})


async def test_an_opening_that_comes_too_late_for_its_l2_reads_the_row_again(
    world: World, home: Home, changes: Changes, clock: Clock
) -> None:
    before = await a_keyring(world, Looking(), changes, clock).key(home.caller())
    root = RetiringRoot(world.own_root, lambda: rewrap_under_a_new_l2_and_retire_the_old(home, "orders"))
    keyring = a_keyring(world, Looking(), changes, clock, root)  # type: ignore[arg-type]  # all the keyring calls
    assert await keyring.key(home.caller()) == before
    assert root.asked == 2


async def test_an_l2_that_is_gone_is_not_asked_twice(world: World, home: Home, changes: Changes, clock: Clock) -> None:
    root = RetiringRoot(world.own_root, lambda: world.tenant_keys.disable(home.tenant_id))
    keyring = a_keyring(world, Looking(), changes, clock, root)  # type: ignore[arg-type]  # the same
    with pytest.raises(KeyUnavailable):
        await keyring.key(home.caller())
    assert root.asked == 1


async def test_what_was_opened_is_noted_and_what_was_in_memory_is_not(
    world: World, home: Home, changes: Changes, clock: Clock, threads: FairExecutor
) -> None:
    keyring = a_keyring(world, Looking(), changes, clock)
    keyring._opened = UnwrapAudit(world.crypto, threads, Journal(), clock).opened

    def noted() -> object:
        return home.version("orders", 1).last_opened_at

    assert noted() is None
    await keyring.key(home.caller())
    await wait_until_async(lambda: noted() is not None)
    first = noted()
    with world.field.administrator() as administrator:
        administrator.execute("update okcm.service_key set last_opened_at = last_opened_at - interval '1 hour'")
    await keyring.key(home.caller())  # from memory
    changes.tell(None)
    await keyring.key(home.caller())  # opened again, within the minute
    await asyncio.sleep(0.2)
    assert noted() != first
    clock.now += 61
    await keyring.key(home.caller())
    await wait_until_async(lambda: noted() > first)  # type: ignore[operator]  # a time by now


async def test_a_key_whose_opening_cannot_be_put_on_record_is_not_used(
    world: World, home: Home, changes: Changes, clock: Clock, threads: FairExecutor
) -> None:
    journal = Journal(full=True)
    keyring = a_keyring(world, Looking(), changes, clock)
    keyring._opened = UnwrapAudit(world.crypto, threads, journal, clock).opened
    with pytest.raises(AuditUnavailable):
        await keyring.key(home.caller())
    assert keyring._tenants[home.tenant_id].kept == {}
    journal.full, clock.now = False, clock.now + 1
    assert (await keyring.key(home.caller())).version == 1
    await keyring.key(home.caller())  # from memory: one opening, one line
    assert [(e.operation, e.service, e.subject) for e in journal.entries] == [("open", "orders", "1")]


async def test_an_opening_that_cannot_be_noted_fails_nothing_and_is_noted_with_the_next(
    world: World, home: Home, changes: Changes, clock: Clock, threads: FairExecutor
) -> None:
    class Away:
        async def run(self, _tenant_id: str, _work: object) -> None:
            raise DatabaseUnavailable

    keyring = a_keyring(world, Looking(), changes, clock)
    openings = UnwrapAudit(world.crypto, Away(), Journal(), clock)  # type: ignore[arg-type]  # all that is called
    keyring._opened = openings.opened
    assert (await keyring.key(home.caller())).version == 1
    await asyncio.sleep(0)
    openings._blocking = threads
    changes.tell(None)
    await keyring.key(home.caller())
    await wait_until_async(lambda: home.version("orders", 1).last_opened_at is not None)
