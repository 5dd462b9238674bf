"""Locks at a real key server: one request for all callers of a tenant, and none that a change has outdated."""

import asyncio
import threading

import pytest

from core.errors.tenants import LockedAtKeyServer
from core.keys.encryption_context import EncryptionContext, Purpose
from core.tenants.lifecycle import State
from core.tenants.locks import LockRecord
from crypto_service.keys.lock_checks import LockCheckedTenantKeys, LockChecks
from database.postgres.change_feed import tenant_hash
from tests.crypto_service.core.world import Changes, Clock, CountingExecutor, Home, World
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import InlineTenants
from vault.tenant_locks import TenantLocks

LOCK = LockRecord(State.LOCKED, seq=1, chain_hash="00")


class Checked:
    """The checks of one process, and the lock of a tenant that the worker writes."""

    def __init__(self, world: World, home: Home, changes: Changes) -> None:
        self.world, self.tenant_id, self.l2_key, self.changes = world, home.tenant_id, home.l2_key, changes
        self.clock, self.executor = Clock(1000.0), CountingExecutor()
        own = world.vault.session("crypto")
        locks = TenantLocks(own)
        self.checks = LockChecks(locks, self.executor, changes, cache_seconds=60, monotonic=self.clock)
        self.keys = LockCheckedTenantKeys(own, InlineTenants(own, world.vault.identity_pem, "crypto"), self.checks)
        self.written = TenantLocks(world.vault.session("worker"))

    def reads(self) -> int:
        return self.world.key_server_requests().count(f"tenant-locks/{self.tenant_id}")

    async def is_locked(self) -> bool:
        return await self.checks.is_locked(self.tenant_id)

    def decrypt(self) -> bytes:
        context = EncryptionContext(self.tenant_id, self.l2_key, "", Purpose.VERIFY, "check")
        return self.keys.decrypt(context, self.keys.encrypt(context, b"text"))


@pytest.fixture
def checked(world: World, changes: Changes) -> Checked:
    return Checked(world, world.tenant(), changes)


async def test_one_read_suffices_for_all_callers_and_keys_of_a_tenant(checked: Checked) -> None:
    assert not any(await asyncio.gather(*(checked.is_locked() for _ in range(200))))
    assert checked.decrypt() == checked.decrypt() == b"text"
    assert (checked.reads(), checked.executor.count) == (1, 1)
    checked.clock.now += 60
    assert checked.decrypt() == b"text"
    assert not await checked.is_locked()
    assert checked.reads() == 2


@pytest.mark.parametrize("changed", ["the tenant", "all tenants"])
async def test_lock_holds_after_a_change_of(checked: Checked, changed: str) -> None:
    assert not await checked.is_locked()
    checked.written.record(checked.tenant_id, LOCK)
    checked.changes.tell(tenant_hash("another"))
    assert not await checked.is_locked()
    checked.changes.tell(tenant_hash(checked.tenant_id) if changed == "the tenant" else None)
    with pytest.raises(LockedAtKeyServer):
        checked.decrypt()
    assert await checked.is_locked()
    checked.written.remove(checked.tenant_id)
    assert not await checked.is_locked()
    assert checked.decrypt() == b"text"


async def test_lock_holds_after_the_cache_time_without_a_change(checked: Checked) -> None:
    assert not await checked.is_locked()
    checked.written.record(checked.tenant_id, LOCK)
    checked.clock.now += 60
    assert await checked.is_locked()


async def test_result_of_a_read_during_a_change_is_not_kept(checked: Checked) -> None:
    class LockedDuringRead(TenantLocks):
        def get(self, tenant_id: str) -> LockRecord | None:
            found = super().get(tenant_id)
            checked.written.record(tenant_id, LOCK)
            checked.changes.tell(tenant_hash(tenant_id))
            return found

    locks = LockedDuringRead(checked.world.vault.session("crypto"))
    checks = LockChecks(locks, checked.executor, checked.changes, cache_seconds=60)
    assert not await checks.is_locked(checked.tenant_id)
    assert await checks.is_locked(checked.tenant_id)


async def test_caller_after_a_change_does_not_join_a_read_that_began_before_it(checked: Checked) -> None:
    class SlowFirstRead(TenantLocks):
        read, change = threading.Event(), threading.Event()

        def get(self, tenant_id: str) -> LockRecord | None:
            found = super().get(tenant_id)
            if not self.read.is_set():
                self.read.set()
                assert self.change.wait(30)
            return found

    locks = SlowFirstRead(checked.world.vault.session("crypto"))
    checks = LockChecks(locks, checked.executor, checked.changes, cache_seconds=60)
    before = asyncio.create_task(checks.is_locked(checked.tenant_id))
    await asyncio.to_thread(locks.read.wait, 30)
    try:
        checked.written.record(checked.tenant_id, LOCK)
        checked.changes.tell(tenant_hash(checked.tenant_id))
        async with asyncio.timeout(30):
            assert await asyncio.gather(*(checks.is_locked(checked.tenant_id) for _ in range(5))) == [True] * 5
    finally:
        locks.change.set()
    assert not await before
    assert checked.executor.count == 2
    assert await checks.is_locked(checked.tenant_id)


async def test_caller_is_admitted_where_the_key_server_does_not_answer(free_port: int, changes: Changes) -> None:
    nowhere = TenantLocks(VaultSession(f"http://127.0.0.1:{free_port}", "crypto", "no secret"))
    checks = LockChecks(nowhere, CountingExecutor(), changes, cache_seconds=60)
    assert not await checks.is_locked("acme-corp")
