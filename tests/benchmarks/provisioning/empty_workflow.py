"""Second part of the floor: the product's workflows with activities that do nothing.

`python -m tests.benchmarks.provisioning.empty_workflow ADDRESS REGION` runs a worker for a dedicated region on the
product's Temporal server, in a separate process as the product's worker is. It has no payload codec, no interceptors
and no metrics."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from types import TracebackType
from typing import Any, Final, Self

from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner

from config.settings import Settings
from core import names as ids
from core.messages.base import AnnounceInput, StepInput
from core.messages.tenants import ActivateResult, StoredTenant, TenantWorkflowState
from core.tenants.provisioning import Step
from tests.workflows.queues import run_region
from workflows.client.workflow_client import WorkflowClient
from workflows.provisioning import ProvisionTenant
from workflows.tenants import Tenant

REGION = "zz-floor-1"
_CHILD_POLL_SECONDS = 0.02
_MARKER: Final = "marker_recorded_event_attributes"


@dataclass(frozen=True)
class EmptyRun:
    """Seconds from the request until `activate` completed, and until provisioning completed."""

    active: float
    done: float


class EmptyWorkflow:
    """`with EmptyWorkflow(settings) as empty:` runs the worker; `empty.measure(tenant)` runs the empty workflow."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.temporal_address or ""
        self._threads = settings.worker_threads
        self._promise = settings.provisioning_slo_seconds
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.provisioning.empty_workflow",
            self._address,
            REGION,
            str(self._threads),
        ]
        self._worker = subprocess.Popen(command)
        self._client = self._runner.run(Client.connect(self._address, data_converter=pydantic_data_converter))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._worker.terminate()
        self._worker.wait(30)

    def measure(self, tenant_id: str) -> EmptyRun:
        return self._runner.run(self._measure(tenant_id))

    async def _measure(self, tenant_id: str) -> EmptyRun:
        began = time.time()
        await WorkflowClient(self._client, self._promise).enable(tenant_id, REGION, f"event-{tenant_id}")
        child = self._client.get_workflow_handle(ids.provision_workflow(tenant_id))
        while True:
            try:
                await child.result()
                break
            except RPCError as failed:
                if failed.status is not RPCStatusCode.NOT_FOUND:
                    raise
                if self._worker.poll() is not None:
                    raise RuntimeError("the worker with the empty activities has ended") from None
                await asyncio.sleep(_CHILD_POLL_SECONDS)
        history = await child.fetch_history()
        ends = [
            event.event_time.ToDatetime(UTC).timestamp() - began
            for event in history.events
            if _is_of(event, Step.ACTIVATE) or event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
        ]
        return EmptyRun(active=ends[0], done=ends[-1])


def _is_of(event: HistoryEvent, step: Step) -> bool:
    """Return whether this is the marker of a completed local activity for the step."""
    data = event.marker_recorded_event_attributes.details["data"].payloads if event.HasField(_MARKER) else ()
    return any(json.loads(payload.data)["activity_type"] == step for payload in data)


def _empty_activities() -> list[Callable[..., Any]]:
    """Return an activity for each step, registered under its name; synchronous (`def`), as the real ones are."""

    def empty(step: Step) -> Callable[..., Any]:
        if step is Step.ANNOUNCE:

            def announce(_: AnnounceInput) -> None:
                pass

            return activity.defn(name=step)(announce)

        if step is Step.ACTIVATE:

            def activate(_: StepInput) -> ActivateResult:
                return ActivateResult(messages=0)

            return activity.defn(name=step)(activate)

        def nothing(_: StepInput) -> None:
            pass

        return activity.defn(name=step)(nothing)

    @activity.defn(name="load-tenant")
    def load_tenant(_: StepInput) -> StoredTenant:
        return StoredTenant(memory=TenantWorkflowState(provision=True))

    return [load_tenant, *(empty(step) for step in Step)]


async def _work(address: str, region: str, threads: int) -> None:
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    async with run_region(
        client,
        region,
        [Tenant, ProvisionTenant],
        _empty_activities(),
        activity_executor=ThreadPoolExecutor(threads),
        max_concurrent_activities=threads,
        workflow_runner=UnsandboxedWorkflowRunner(),  # as the product's worker
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
