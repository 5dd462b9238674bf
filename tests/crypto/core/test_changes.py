"""Word of changes, from a commit in PostgreSQL to the loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from crypto.changes import FeedChanges
from crypto.interfaces import Caller
from crypto.keyring import CachedKeyring
from database.feed import NotifyFeed
from database.interfaces import mark
from tenancy.errors import DatabaseUnavailable
from tenancy.lifecycle import Move, State
from tests.crypto.core.world import REGION, Looking, Shelf, World, at_once, unheeded


class Heard:
    """What was told, and somebody who waits for it."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()

    def forget(self, tenant: str | None) -> None:
        self.words.put_nowait(tenant)

    async def until(self, tenant: str | None) -> None:
        async with asyncio.timeout(20):
            while await self.words.get() != tenant:
                pass


@pytest.fixture
async def feed_changes(world: World) -> AsyncIterator[FeedChanges]:
    changes = FeedChanges(NotifyFeed(world.field.url, "crypto", world.field.server.passwords["crypto"]))
    yield changes
    await changes.stop()


async def test_a_commit_is_heard_by_every_subscriber_in_order(feed_changes: FeedChanges, world: World) -> None:
    home = world.tenant()
    heard, order = Heard(), list[str]()
    feed_changes.subscribe(lambda _tenant: order.append("first"))
    feed_changes.subscribe(lambda _tenant: order.append("second"))
    feed_changes.subscribe(heard.forget)
    feed_changes.start()
    await feed_changes.listening()
    home.move(Move.LOCK)
    await heard.until(mark(home.tenant_id))
    assert order[-2:] == ["first", "second"]


async def test_a_key_is_dropped_as_soon_as_its_tenant_is_locked(feed_changes: FeedChanges, world: World) -> None:
    home = world.tenant()
    home.connect("orders")
    heard = Heard()
    keyring = CachedKeyring(
        world.crypto,
        world.own_keys,
        Shelf(world.own_root),
        Looking(),
        feed_changes,
        cache_seconds=60,
        opened=unheeded,
    )
    feed_changes.subscribe(heard.forget)
    feed_changes.start()
    await feed_changes.listening()
    caller = Caller(home.tenant_id, "orders", home.l2_key, REGION, "1a", State.ACTIVE)
    await keyring.key(caller)
    at_once(keyring.key(caller))
    home.move(Move.LOCK)
    await heard.until(mark(home.tenant_id))
    with world.field.server.offline(world.field.name), pytest.raises(DatabaseUnavailable):
        await keyring.key(caller)


async def test_when_the_feed_was_lost_everything_is_forgotten(feed_changes: FeedChanges, world: World) -> None:
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


async def test_a_feed_that_fails_makes_everything_forgotten_and_is_begun_again() -> None:
    heard, feed = Heard(), Broken()
    changes = FeedChanges(feed)
    changes.subscribe(heard.forget)
    changes.start()
    await heard.until(None)
    await heard.until("somebody")
    await changes.stop()
    assert feed.begun == 2


async def test_a_subscriber_that_fails_keeps_no_other_from_forgetting() -> None:
    def fail(_tenant: Any) -> None:
        raise ValueError

    heard, changes = Heard(), FeedChanges(Broken())
    changes.subscribe(fail)
    changes.subscribe(heard.forget)
    changes.start()
    await heard.until("somebody")
    await changes.stop()
