"""Eager start of a coroutine without a task until it waits, on both event loops that the service may use."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from crypto_service.server.eager import start_eagerly

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    def in_loop(work: Coroutine[Any, Any, Any]) -> Any:
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(work)

    return in_loop


async def finish(started: tuple[T, None] | tuple[None, Coroutine[Any, Any, T]]) -> T:
    _, rest = started
    assert rest is not None
    return await asyncio.get_running_loop().create_task(rest)


async def add(waiting: Awaitable[int], more: int) -> int:
    return await waiting + more


def test_work_without_wait_completes_or_raises_immediately():
    async def seven() -> int:
        return 7

    async def wrong() -> int:
        raise KeyError("place")

    assert start_eagerly(seven()) == (7, None)
    with pytest.raises(KeyError, match="place"):
        start_eagerly(wrong())


def test_future_awaited_by_others_raises_no_error(run: Run[list[int]]):
    async def main() -> list[int]:
        ready = asyncio.get_running_loop().create_future()
        mine = start_eagerly(add(ready, 1))
        other = asyncio.get_running_loop().create_task(add(ready, 2))
        await asyncio.sleep(0)  # the other task has awaited the future, which clears its flag
        asyncio.get_running_loop().call_soon(ready.set_result, 40)
        return [await finish(mine), await other]

    assert run(main()) == [41, 42]


def test_work_may_suspend_repeatedly_with_and_without_a_future(run: Run[int]):
    async def main() -> int:
        async def counting() -> int:
            total = 0
            for number in range(5):
                await asyncio.sleep(0)
                total += await asyncio.to_thread(lambda: number)  # noqa: B023 - awaited before the next number
            return total

        return await finish(start_eagerly(counting()))

    assert run(main()) == 10


def test_future_done_before_the_task_runs_returns_result_or_error(run: Run[int]):
    async def main() -> int:
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        error: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        good, bad = start_eagerly(add(result, 1)), start_eagerly(add(error, 1))
        result.set_result(1)
        error.set_exception(LookupError("gone"))
        with pytest.raises(LookupError, match="gone"):
            await finish(bad)
        return await finish(good)

    assert run(main()) == 2


def test_cancelled_work_can_clean_up_and_return(run: Run[str]):
    async def main() -> str:
        async def stubborn() -> str:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                return "cleaned up"
            return "not cancelled"

        _, rest = start_eagerly(stubborn())
        assert rest is not None
        task = asyncio.get_running_loop().create_task(rest)
        await asyncio.sleep(0)
        task.cancel()
        return await task

    assert run(main()) == "cleaned up"
