"""Every order in which states, keys, caches, word of changes and a decryption can meet: the lesson of AWS KMS.

The search is over places, not over paths: two orders of things that end alike in everything the future depends on
are continued once. It ends when there is nowhere new to go, so within the stage's bounds it is a proof.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tests.crypto_service.core.stage import CACHE_SECONDS, DONE, OPEN, Stage

MAY_END = {DONE, "tenant_closed", "caller_refused", "root_key_disabled"}
REPAIRS = ("is open", "root key is given back", "is heard of", "a minute passes", "asks")


async def play(path: tuple[str, ...]) -> Stage:
    stage = Stage()
    await stage.begin()
    for act in path:
        await stage.happen(act)
    return stage


def is_safe(stage: Stage) -> None:
    """No decryption after lock and word of it, none later than the cache time, and no key kept from before a change."""
    assert not stage.keeps_what_is_old(), "kept a key from before a change"
    if stage.outcome is None:
        return
    assert stage.outcome in MAY_END
    if stage.outcome == DONE:
        assert stage.standing == OPEN or not stage.heard, "opened after the lock was heard of"
        assert stage.clock.now - stage.shut_since < CACHE_SECONDS, "opened too long after the lock"
        assert stage.clock.now - stage.gone_since < CACHE_SECONDS, "opened too long after a key was gone"


async def recovers(stage: Stage) -> None:
    """Whatever happened: when all is well again, a decryption succeeds."""
    await finish(stage)
    for act in REPAIRS:
        if act in stage.possible():
            await stage.happen(act)
    await finish(stage)
    assert stage.outcome == DONE, "did not recover"


async def finish(stage: Stage) -> None:
    while stage.asking is not None:
        for act in ("server reads", "server answers"):
            if act in stage.possible():
                await stage.happen(act)


async def explore(depth: int) -> tuple[int, int]:
    """Go everywhere within `depth` acts; return the number of places and of steps from one to another."""
    start = await play(())
    seen = {start.place()}
    frontier = deque([((), tuple(start.possible()))])
    steps = 0
    while frontier:
        path, possible = frontier.popleft()
        for act in possible if len(path) < depth else ():
            after = (*path, act)
            stage = await play(after)
            steps += 1
            try:
                is_safe(stage)
                place = stage.place()
                if place not in seen:
                    seen.add(place)
                    frontier.append((after, tuple(stage.possible())))
                    assert await stage.strangers_attempt() == "ciphertext_refused", "opened by another tenant"
                    await recovers(stage)
            except AssertionError as broken:
                raise AssertionError(f"{broken} after: {', '.join(after)}") from broken
            await stage.end()
    return len(seen), steps


@pytest.mark.parametrize("depth", [4, pytest.param(1_000, marks=pytest.mark.full)])
def test_no_order_of_events_decrypts_what_must_stay_closed(record_property: Callable[[str, object], None], depth: int):
    with capture_logs():
        places, steps = asyncio.run(explore(depth))
    record_property("model", f"{places} places, {steps} steps")
    assert places > 100
