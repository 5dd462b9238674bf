"""Every order of states, keys, caches, change notifications and a decryption.

The search visits states, not paths: two sequences that end in the same relevant state are continued once. It ends when
no new state is reachable, so within the bounds of the stage it is a proof.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tests.crypto_service.core.stage import CACHE_SECONDS, DONE, OPEN, Stage

MAY_END = {DONE, "tenant_not_operational", "client_not_authorized", "root_key_disabled"}
REPAIRS = ("is open", "root key is given back", "is heard of", "a minute passes", "asks")


async def play(path: tuple[str, ...]) -> Stage:
    stage = Stage()
    await stage.begin()
    for act in path:
        await stage.happen(act)
    return stage


def is_safe(stage: Stage) -> None:
    """Assert: no decryption after a notified lock or the cache time, and no key in memory from before a change."""
    assert not stage.has_stale_key(), "a key from before a change is in memory"
    if stage.outcome is None:
        return
    assert stage.outcome in MAY_END
    if stage.outcome == DONE:
        assert stage.status == OPEN or not stage.notified, "decrypted after the notification of the lock"
        assert stage.clock.now - stage.closed_since < CACHE_SECONDS, "decrypted too long after the lock"
        assert stage.clock.now - stage.disabled_since < CACHE_SECONDS, "decrypted too long after the root key"


async def recovers(stage: Stage) -> None:
    """Assert that a decryption succeeds after all faults are repaired, regardless of the previous acts."""
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
    """Visit every state within `depth` acts; return the number of states and of transitions."""
    start = await play(())
    seen = {start.state()}
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
                state = stage.state()
                if state not in seen:
                    seen.add(state)
                    frontier.append((after, tuple(stage.possible())))
                    assert await stage.decrypt_as_other_tenant() == "ciphertext_refused", "decrypted by another tenant"
                    await recovers(stage)
            except AssertionError as broken:
                raise AssertionError(f"{broken} after: {', '.join(after)}") from broken
            await stage.end()
    return len(seen), steps


@pytest.mark.parametrize("depth", [4, pytest.param(1_000, marks=pytest.mark.full)])
def test_no_order_of_events_permits_a_forbidden_decryption(record_property: Callable[[str, object], None], depth: int):
    with capture_logs():
        states, steps = asyncio.run(explore(depth))
    record_property("model", f"{states} places, {steps} steps")
    assert states > 100
