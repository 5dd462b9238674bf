"""Word of changes, from a commit in PostgreSQL to the loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import Transition
from crypto_service.cache_invalidation import NotifyInvalidations
from database.postgres.notify import NotifyFeed, tenant_hash
from tests.crypto_service.core.world import Looking, World, a_keyring, at_once

pytestmark = pytest.mark.integration


class Heard:
    """What was told, and somebody who waits for it."""

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
    changes = NotifyInvalidations(NotifyFeed(world.field.url, "crypto", world.field.server.passwords["crypto"]))
    yield changes
    await changes.stop()


async def test_a_commit_is_heard_by_every_subscriber_in_order(feed_changes: NotifyInvalidations, world: World):
    home = world.tenant()
    heard, order = Heard(), list[str]()
    feed_changes.subscribe(lambda _tenant: order.append("first"))
    feed_changes.subscribe(lambda _tenant: order.append("second"))
    feed_changes.subscribe(heard.forget)
    feed_changes.start()
    await feed_changes.listening()
    home.move(Transition.LOCK)
    await heard.until(tenant_hash(home.tenant_id))
    assert order[-2:] == ["first", "second"]


async def test_a_key_is_dropped_as_soon_as_its_tenant_is_locked(feed_changes: NotifyInvalidations, world: World):
    home = world.tenant()
    home.connect("orders")
    heard = Heard()
    keyring = a_keyring(world, Looking(), feed_changes)
    feed_changes.subscribe(heard.forget)
    feed_changes.start()
    await feed_changes.listening()
    caller = home.caller()
    await keyring.key(caller)
    at_once(keyring.key(caller))
    home.move(Transition.LOCK)
    await heard.until(tenant_hash(home.tenant_id))
    with world.field.server.offline(world.field.name), pytest.raises(DatabaseUnavailable):
        await keyring.key(caller)


async def test_when_the_feed_was_lost_everything_is_forgotten(feed_changes: NotifyInvalidations, world: World):
    heard = Heard()
    feed_changes.subscribe(heard.forget)
    feed_changes.start()
    await heard.until(None)
    with world.field.server.offline(world.field.name):
        pass
    await heard.until(None)


class Broken:
    """A feed that fails once and then listens."""

    def __init__(self) -> None:
        self.begun = 0

    def listen(self, changed: Callable[[str], None], _lost: Callable[[], None], stop: threading.Event) -> None:
        self.begun += 1
        if self.begun == 1:
            raise RuntimeError
        changed("somebody")
        stop.wait()


async def test_a_feed_that_fails_is_begun_again_and_a_subscriber_that_fails_keeps_no_other_from_forgetting():
    def fail(_tenant: Any) -> None:
        raise ValueError

    heard, feed = Heard(), Broken()
    changes = NotifyInvalidations(feed)
    changes.subscribe(fail)
    changes.subscribe(heard.forget)
    changes.start()
    await heard.until(None)
    await heard.until("somebody")
    await changes.stop()
    assert feed.begun == 2
