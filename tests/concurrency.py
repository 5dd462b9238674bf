"""Threads that start simultaneously, and waits for a condition."""

import asyncio
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")


def at_once(*functions: Callable[[], T]) -> list[T]:
    """Run each function in a thread, all starting simultaneously; return their results, or raise their error."""
    barrier = Barrier(len(functions))

    def run(function: Callable[[], T]) -> T:
        barrier.wait(60)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


def wait_until(
    condition: Callable[[], object],
    otherwise: Callable[[], str] = lambda: "the condition did not hold in time",
    seconds: float = 120,
) -> None:
    """Poll a condition until it holds; fail with the text of `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


async def wait_until_async(condition: Callable[[], object], *, seconds: float = 120) -> None:
    """Poll a condition, which may be a coroutine function, until it holds; raise TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.01)
