"""Threads that begin at the same moment, and waiting for what another thread, task or process does."""

import asyncio
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def at_once(*acts: Callable[[], T]) -> list[T]:
    """Run each act in a thread, all from the same moment on; return what they returned, or raise what one raised."""
    together = Barrier(len(acts))

    def run(act: Callable[[], T]) -> T:
        together.wait(60)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def wait_until(
    true: Callable[[], object],
    otherwise: Callable[[], str] = lambda: "the condition did not become true in time",
    seconds: float = 120,
) -> None:
    """Poll a condition until it holds; fail with the text of `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


async def wait_until_async(true: Callable[[], object], *, seconds: float = 120) -> None:
    """Poll a condition, which may be a coroutine function, until it holds; raise TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            holds = true()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.01)
