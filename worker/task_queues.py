"""The worker's task queues: how many activities of each class run at the same time, and their workers (docs/adr/0013).

Each slot has a thread and each thread a database connection. An activity that Temporal has started therefore waits for
neither, and slow activities take nothing from a tenant's lock.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from temporalio.worker import Worker

from config.settings import MAX_ROOT_KEY_SHARDS, Settings
from core import names as ids
from core.names import ActivityKind
from worker.bootstrap import SCHEDULES

_URGENT_THREADS = 8
"""Status changes and approvals of a region; each takes milliseconds."""
_RECOVERIES = 8
"""Requests for tenants whose workflow is lost, such as a lock: they wait for no scheduled work."""
_MONITORING_ATTEMPTS = 2
"""Root key monitoring runs once in a shard. A timed-out attempt may end after the next one has started."""
_MONITORING_SLOTS = _MONITORING_ATTEMPTS * MAX_ROOT_KEY_SHARDS
"""For any number of shards: while workers with two numbers run, each may get all shards of both."""
_OTHER_CONNECTIONS = 16
"""For threads without a slot: root key checks, isolation attacks and records of failed attempts."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Concurrent activities of one task queue; `local` are those inside workflow tasks."""

    activities: int
    local: int = 0

    @property
    def threads(self) -> int:
        """Return the number of threads; none of the slots waits for one."""
        return self.activities + self.local


def queue_slots(settings: Settings) -> Mapping[str, Slots]:
    """Return the slots of each task queue of this worker."""
    short, half = settings.worker_threads, settings.worker_threads // 2
    # Each scheduled workflow runs once, with one activity at a time.
    slots = {ids.PLATFORM_QUEUE: Slots(len(SCHEDULES) + _RECOVERIES)}
    for region in settings.regions:
        slots |= {
            ids.tenant_queue(region): Slots(_MONITORING_SLOTS, _URGENT_THREADS),
            ids.operation_queue(region): Slots(short, half),
            ids.activity_queue(ActivityKind.LONG, region): Slots(half),
            ids.activity_queue(ActivityKind.PACED, region): Slots(settings.worker_rotations),
        }
    return slots


def database_connections(settings: Settings) -> int:
    """Return the size of the worker's database pool: a connection for each thread of an activity.

    Shards of another number get none: they wait for a connection, because they last only for a change of the number.
    """
    others = _MONITORING_ATTEMPTS * (MAX_ROOT_KEY_SHARDS - settings.root_key_shards) * len(settings.regions)
    return sum(slots.threads for slots in queue_slots(settings).values()) - others + _OTHER_CONNECTIONS


@asynccontextmanager
async def run_workers(found: Sequence[Worker], stopping: threading.Event) -> AsyncIterator[None]:
    """Run workers until the block ends; then all drain at the same time, within one `shutdown_grace_seconds`.

    Activities that last until the worker stops return once `stopping` is set. `activity.is_worker_shutdown` does not
    end all of them: in temporalio 1.35 it remains false if a worker's first activity starts after its shutdown began.
    """
    stopping.clear()
    async with AsyncExitStack() as running:
        for worker in found:
            await running.enter_async_context(worker)
        try:
            yield
        finally:
            stopping.set()
            await asyncio.gather(*(worker.shutdown() for worker in found))
