"""Rate limit, time slices, time budgets and threads for activities with much work.

A pause between batches leaves capacity of the servers to their other clients. A paced activity returns after a time
slice, so that tenants take turns in the few slots for rotations. The threads carry the context of the activity, so that
each request to a server names it.

Scheduled activities list the due tenants of the platform, those with the oldest attempt first, and stop at the end of
their time. Each attempt is recorded before its work, so tenants whose work fails, or ends the process, delay no other
tenant in the next run.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

import structlog
from temporalio import activity
from temporalio.exceptions import CancelledError

from core.scheduled import ScheduledTask
from database.connection.database import Database
from openkcm.errors import OpenKcmError

_MAX_SLEEP_SECONDS = 1.0
"""The longest pause without a heartbeat."""

BUDGET_SECONDS = 240.0
"""Time of one scheduled run, shorter than its attempt (`workflows.runtime.timeouts`) and its schedule's interval."""
MAX_LISTED = 100_000
"""Due items that one query returns, which bounds the memory of a run."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """The rate of service keys per second, 0 for no limit, and the time slice of an attempt in seconds.

    `stopping` is set when the worker stops, see `worker.task_queues.run_workers`.
    """

    per_second: float
    stopping: threading.Event
    slice_seconds: float = 10.0

    def throttle(self, keys: int, took: float) -> None:
        """Wait until `keys` keys took as long as the rate allows; `took` is the time that they took already."""
        left = keys / self.per_second - took if self.per_second else 0.0
        while left > 0 and not self.stopping.is_set():
            activity.heartbeat()
            self.stopping.wait(min(left, _MAX_SLEEP_SECONDS))
            left -= _MAX_SLEEP_SECONDS

    def is_over(self, began: float) -> bool:
        """Return whether a slice that began at this monotonic time must end; a stopping worker ends it at once."""
        return self.stopping.is_set() or time.monotonic() - began >= self.slice_seconds


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ContextThreadPool(ThreadPoolExecutor):
    """A thread pool whose tasks run in the submitter's context: its correlation id and its activity.

    The base class gives each thread a separate context, without the correlation id of the request to the key server.
    """

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> "Future[Result]":
        return super().submit(copy_context().run, partial(fn, *args, **kwargs))


Work = TypeVar("Work")


def within_budget(
    run: str, due: Sequence[Work], seconds: float = BUDGET_SECONDS, monotonic: Callable[[], float] = time.monotonic
) -> Iterator[Work]:
    """Yield due work until the time is used up, with a heartbeat after each item; the first item is always yielded."""
    end = monotonic() + seconds
    for number, work in enumerate(due):
        if number and monotonic() >= end:
            log.warning("scheduled run used up its time; the next run continues", run=run, left=len(due) - number)
            return
        yield work
        activity.heartbeat(number)


def run_for_each_tenant(
    database: Database,
    task: ScheduledTask,
    due: Sequence[str],
    work: Callable[[str], None],
    seconds: float = BUDGET_SECONDS,
) -> None:
    """Do the work of a scheduled task for each due tenant within the time budget; the failure of one stops no other."""
    for tenant_id in within_budget(task, due, seconds):
        try:
            _record_attempt(database, task, tenant_id)
            work(tenant_id)
        except OpenKcmError as failed:
            log.warning(
                "scheduled work failed", task=task, tenant_id=tenant_id, code=failed.code, problem=failed.message
            )
        except CancelledError:
            raise
        except Exception:  # a fault with one tenant's data must not stop the work for the others
            log.exception("scheduled work failed", task=task, tenant_id=tenant_id)


def take_turns(database: Database, task: ScheduledTask, due: Sequence[str]) -> tuple[str, ...]:
    """Record an attempt for each tenant, and return those whose attempt is recorded."""
    turns = []
    for tenant_id in due:
        try:
            _record_attempt(database, task, tenant_id)
        except OpenKcmError as failed:
            log.warning("attempt not recorded", task=task, tenant_id=tenant_id, code=failed.code)
        else:
            turns.append(tenant_id)
        activity.heartbeat(tenant_id)
    return tuple(turns)


def _record_attempt(database: Database, task: ScheduledTask, tenant_id: str) -> None:
    with database.tenant_tx(tenant_id) as tx:
        tx.tenants.record_attempt(task)
