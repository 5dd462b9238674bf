"""Running a coroutine at once, and making a task of it only when it has to wait.

Most of what the crypto service does is in memory, and a task for each request would cost more than the request. So a
coroutine is first driven with one `send(None)`; when it waits, the rest of it is handed on to a task. Until it first
waits it runs outside of any task: it MUST NOT use `asyncio.timeout`, `TaskGroup` or `current_task` before that.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class Completed(Generic[Result]):
    value: Result


def start_eagerly(work: Coroutine[Any, Any, Result]) -> Completed[Result] | Coroutine[Any, Any, Result]:
    """Run `work` until it ends or waits; return its result, or the rest of it for a task. Raises what it raises."""
    try:
        waits_for = work.send(None)
    except StopIteration as end:
        return Completed(end.value)
    _mark_awaited(waits_for, awaited=False)
    return _rest(work, waits_for)


async def _rest(work: Coroutine[Any, Any, Result], waits_for: Any) -> Result:
    return await _handed_on(work, waits_for)


@types.coroutine
def _handed_on(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    steps = work.__await__()
    while True:
        _mark_awaited(waits_for, awaited=True)
        try:
            yield waits_for
        except BaseException as thrown:  # noqa: BLE001 - cancellation too belongs to the work, as in `await`
            try:
                waits_for = steps.throw(thrown)
            except StopIteration as end:
                result: Result = end.value
                return result
        else:
            return (yield from steps)


def _mark_awaited(waits_for: Any, *, awaited: bool) -> None:
    """Set the mark by which a future and the task that awaits it understand each other.

    It stands only from the future's `yield` to the task that takes it: were it left standing meanwhile, somebody else
    who awaits the same future would be told that it was not awaited properly.
    """
    if asyncio.isfuture(waits_for):
        waits_for._asyncio_future_blocking = awaited  # noqa: SLF001 - asyncio's protocol, there is no public one
