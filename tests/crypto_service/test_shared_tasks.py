"""Tasks that several callers await: their errors reach the callers, and never asyncio's log."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.errors.requests import TooManyRequests
from core.services import CryptoOperation
from crypto_service.audit.copies import CopiedJournal
from crypto_service.interfaces import AuditEntry
from crypto_service.keys.lock_checks import LockChecks
from tests.crypto_service.core.world import Changes, Journal

NOTHING: Any = None
"""A dependency that is never called."""
RELEASE = AuditEntry("acme", "payments", CryptoOperation.GET, "key-1", "id-1")


class FullExecutor:
    """Rejects all work, but only after `reject` is set."""

    def __init__(self) -> None:
        self.began, self.reject = asyncio.Event(), asyncio.Event()

    async def run(self, _tenant_id: str, _work: Callable[[], Any]) -> Any:
        self.began.set()
        await self.reject.wait()
        raise TooManyRequests("full")


def check_lock(executor: FullExecutor) -> Awaitable[object]:
    return LockChecks(NOTHING, executor, Changes(), cache_seconds=60).is_locked("acme")


def copy_record(executor: FullExecutor) -> Awaitable[object]:
    return CopiedJournal(Journal(), NOTHING, executor).write([RELEASE])


@pytest.fixture(params=[check_lock, copy_record], ids=["check of a lock", "copy of a record"])
def call(request: pytest.FixtureRequest) -> Callable[[FullExecutor], Awaitable[object]]:
    function: Callable[[FullExecutor], Awaitable[object]] = request.param
    return function


async def test_waiting_caller_gets_the_error(call: Callable[[FullExecutor], Awaitable[object]]) -> None:
    executor = FullExecutor()
    executor.reject.set()
    with pytest.raises(TooManyRequests):
        await call(executor)


async def test_error_is_not_logged_when_all_callers_were_cancelled(
    call: Callable[[FullExecutor], Awaitable[object]],
) -> None:
    executor, logged = FullExecutor(), list[str]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
    before = asyncio.all_tasks()
    caller = asyncio.ensure_future(call(executor))
    await executor.began.wait()
    (shared,) = asyncio.all_tasks() - before - {caller}
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    executor.reject.set()
    await asyncio.wait({shared})
    del shared, caller
    gc.collect()
    await asyncio.sleep(0)
    assert logged == []
