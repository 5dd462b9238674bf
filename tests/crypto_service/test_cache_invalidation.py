"""Change notifications, from a commit in PostgreSQL to the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import Transition
from crypto_service.cache_invalidation import NotifyInvalidations
from database.postgres.change_feed import ChangeFeed, tenant_hash
from tests.concurrency import wait_until_async
from tests.crypto_service.core.world import CountingExecutor, World, a_keyring, at_once

pytestmark = pytest.mark.integration


class RecordingSubscriber:
    """A subscriber that stores notifications and can wait for one."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()

    def forget(self, tenant: str | None) -> None:
        self.words.put_nowait(tenant)

    async def until(self, tenant: str | None) -> None:
        async with asyncio.timeout(60):
            while await self.words.get() != tenant:
                pass


@pytest.fixture
async def feed_changes(world: World) -> AsyncIterator[NotifyInvalidations]:
    changes = NotifyInvalidations(ChangeFeed(world.field.url, "crypto", world.field.server.passwords["crypto"]))
    yield changes
    await changes.stop()


async def test_commit_notifies_every_subscriber_in_order(feed_changes: NotifyInvalidations, world: World):
    home = world.tenant()
    subscriber, order = RecordingSubscriber(), list[str]()
    feed_changes.subscribe(lambda _tenant: order.append("first"))
    feed_changes.subscribe(lambda _tenant: order.append("second"))
    feed_changes.subscribe(subscriber.forget)
    feed_changes.start()
    await feed_changes.listening()
    home.move(Transition.LOCK)
    await subscriber.until(tenant_hash(home.tenant_id))
    assert order[-2:] == ["first", "second"]


async def test_applied_transactions_include_a_lock_only_after_its_notification(
    feed_changes: NotifyInvalidations, world: World
):
    home, applied = world.tenant(), list[int | None]()
    subscriber = RecordingSubscriber()
    feed_changes.subscribe(lambda tenant: applied.append(feed_changes.applied) if tenant else None)
    feed_changes.subscribe(subscriber.forget)
    assert feed_changes.applied is None
    feed_changes.start()
    await feed_changes.listening()
    home.move(Transition.LOCK)
    await subscriber.until(tenant_hash(home.tenant_id))
    with world.field.open("worker").tenant_tx(home.tenant_id) as tx:
        change = tx.tenants.last_change()
    assert change is not None
    assert applied[-1] is None or applied[-1] <= change
    await wait_until_async(lambda: feed_changes.applied is not None and feed_changes.applied > change)


async def test_key_is_dropped_when_its_tenant_is_locked(feed_changes: NotifyInvalidations, world: World):
    home = world.tenant()
    home.connect("orders")
    subscriber = RecordingSubscriber()
    keyring = a_keyring(world, CountingExecutor(), feed_changes)
    feed_changes.subscribe(subscriber.forget)
    feed_changes.start()
    await feed_changes.listening()
    caller = home.caller()
    await keyring.key(caller)
    at_once(keyring.key(caller))
    home.move(Transition.LOCK)
    await subscriber.until(tenant_hash(home.tenant_id))
    with world.field.server.offline(world.field.name), pytest.raises(DatabaseUnavailable):
        await keyring.key(caller)


async def test_lost_feed_invalidates_everything(feed_changes: NotifyInvalidations, world: World):
    subscriber = RecordingSubscriber()
    feed_changes.subscribe(subscriber.forget)
    feed_changes.start()
    await subscriber.until(None)
    with world.field.server.offline(world.field.name):
        pass
    await subscriber.until(None)


class Broken:
    """A feed that fails once and then listens."""

    def __init__(self) -> None:
        self.starts = 0

    def listen(
        self, changed: Callable[[str], None], _lost: Callable[[], None], stop: threading.Event, _reached: object
    ) -> None:
        self.starts += 1
        if self.starts == 1:
            raise RuntimeError
        changed("other-tenant")
        stop.wait()


async def test_failed_feed_is_restarted_and_a_failed_subscriber_does_not_affect_others():
    def fail(_tenant: Any) -> None:
        raise ValueError

    subscriber, feed = RecordingSubscriber(), Broken()
    changes = NotifyInvalidations(feed)
    changes.subscribe(fail)
    changes.subscribe(subscriber.forget)
    changes.start()
    await subscriber.until(None)
    await subscriber.until("other-tenant")
    await changes.stop()
    assert feed.starts == 2
