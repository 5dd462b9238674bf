"""Eager execution of a coroutine: a task is created only if the coroutine has to wait.

Most work of the crypto service is in memory, and a task for each request would cost more than the request. Therefore
a coroutine is first driven with one `send(None)`; if it waits, a task runs the rest. Before its first wait it runs
outside of any task: it MUST NOT use `asyncio.timeout`, `TaskGroup` or `current_task` until then.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def start_eagerly(
    work: Coroutine[Any, Any, Result],
) -> tuple[Result, None] | tuple[None, Coroutine[Any, Any, Result]]:
    """Run `work` until it ends or waits; return its result, or the rest of it for a task. Raise what `work` raises."""
    try:
        waits_for = work.send(None)
    except StopIteration as end:
        return end.value, None
    _mark_awaited(waits_for, awaited=False)
    return None, _rest(work, waits_for)


async def _rest(work: Coroutine[Any, Any, Result], waits_for: Any) -> Result:
    return await _handed_on(work, waits_for)


@types.coroutine
def _handed_on(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    steps = work.__await__()
    while True:
        _mark_awaited(waits_for, awaited=True)
        try:
            yield waits_for
        except BaseException as thrown:  # noqa: BLE001 - cancellation is passed to the work too, as in `await`
            try:
                waits_for = steps.throw(thrown)
            except StopIteration as end:
                result: Result = end.value
                return result
        else:
            return (yield from steps)


def _mark_awaited(waits_for: Any, *, awaited: bool) -> None:
    """Set the flag with which a future and the awaiting task verify a correct `await`.

    It is set only between the future's `yield` and the task that receives it. If it stayed set, another task that
    awaits the same future would get the error that the future was not awaited correctly.
    """
    if asyncio.isfuture(waits_for):
        waits_for._asyncio_future_blocking = awaited  # noqa: SLF001 - asyncio's protocol, without a public API
