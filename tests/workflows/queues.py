"""Workers for every task queue of a region."""

import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import _Definition

from core import names as ids
from core.names import ActivityKind
from worker.task_queues import run_workers

_validated: set[type] = set()


class ValidatingOnce(SandboxedWorkflowRunner):
    """The sandbox, which validates each workflow for the first worker of a process only.

    A validation imports the workflow's module, and the tests start hundreds of workers. Each run is in a new sandbox.
    """

    def prepare_workflow(self, defn: _Definition) -> None:
        if defn.cls not in _validated:
            super().prepare_workflow(defn)
            _validated.add(defn.cls)


def run_region(
    client: Client, region: str, workflows: Sequence[type], activities: Sequence[Any], **options: Any
) -> AbstractAsyncContextManager[None]:
    """Run a worker for each task queue of a region; each has all these activities.

    As in the product, the queues of long and paced activities have no workflows.
    """
    options = {"workflow_runner": ValidatingOnce(), **options}
    queues = {
        ids.tenant_queue(region): workflows,
        ids.operation_queue(region): workflows,
        ids.activity_queue(ActivityKind.LONG, region): (),
        ids.activity_queue(ActivityKind.PACED, region): (),
    }
    return run_workers(
        [
            Worker(client, task_queue=queue, workflows=of_queue, activities=activities, **options)
            for queue, of_queue in queues.items()
        ],
        threading.Event(),
    )
