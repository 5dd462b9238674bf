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


@dataclass(frozen=True, slots=True)
class Finished(Generic[Result]):
    value: Result


def begin(work: Coroutine[Any, Any, Result]) -> Finished[Result] | Coroutine[Any, Any, Result]:
    """Run `work` until it ends or waits; return its result, or the rest of it for a task. Raises what it raises."""
    try:
        waits_for = work.send(None)
    except StopIteration as end:
        return Finished(end.value)
    return _rest(work, waits_for)


async def _rest(work: Coroutine[Any, Any, Result], waits_for: Any) -> Result:
    return await _handed_on(work, waits_for)


@types.coroutine
def _handed_on(work: Coroutine[Any, Any, Result], waits_for: Any) -> Generator[Any, Any, Result]:
    steps = work.__await__()
    while True:
        if asyncio.isfuture(waits_for):
            # How a task knows that a future was awaited; another task awaiting the same one has cleared it meanwhile.
            waits_for._asyncio_future_blocking = True  # noqa: SLF001 - asyncio's protocol between future and task
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
