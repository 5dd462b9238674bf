"""Workers for every task queue of a region."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from core import names as ids
from core.names import ActivityKind
from worker.task_queues import run_workers


def run_region(
    client: Client, region: str, workflows: Sequence[type], activities: Sequence[Any], **options: Any
) -> AbstractAsyncContextManager[None]:
    """Run a worker for each task queue of a region; each of them has all these workflows and activities."""
    queues = (ids.tenant_queue(region), *(ids.activity_queue(kind, region) for kind in ActivityKind))
    return run_workers(
        [Worker(client, task_queue=queue, workflows=workflows, activities=activities, **options) for queue in queues]
    )
