"""Second part of the floor: the product's workflows with activities that do nothing, or only make the bare calls.

A worker for a dedicated region runs on the product's Temporal server, in a separate process as the product's worker
does. It has no payload codec, no interceptors and no metrics."""

import asyncio
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC
from multiprocessing.sharedctypes import Synchronized
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
from tests.benchmarks.provisioning.baseline import BareScript
from tests.benchmarks.provisioning.baseline_postgres import Recording
from tests.workflows.queues import run_region
from workflows.client.workflow_client import WorkflowClient
from workflows.provisioning import ProvisionTenant
from workflows.tenants import Tenant

REGION = "zz-floor-1"
_CHILD_POLL_SECONDS = 0.02
_STARTS_AT_ONCE = 32
_MARKER: Final = "marker_recorded_event_attributes"


@dataclass(frozen=True)
class EmptyRun:
    """Seconds from the request until `activate` completed, and until provisioning completed."""

    active: float
    done: float


class EmptyWorkflow:
    """`with EmptyWorkflow(settings) as empty:` runs the worker; `empty.measure(tenant)` runs the empty workflow.

    With a recording, the activity `create-keys` makes all calls of the bare script.
    """

    def __init__(self, settings: Settings, recording: Recording | None = None) -> None:
        self._settings = settings
        self._recording = recording
        self._address = settings.temporal_address or ""
        self._promise = settings.provisioning_slo_seconds
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        fresh = multiprocessing.get_context("spawn")  # a fork would copy connections and threads of this process
        self._active: Synchronized[int] = fresh.Value("i", 0)
        # A daemon: if this process is terminated before its `with` block begins, it ends the worker, not waits for it.
        self._worker = fresh.Process(
            target=_run_worker, args=(self._settings, self._recording, self._active), daemon=True
        )
        self._worker.start()
        self._client = self._runner.run(Client.connect(self._address, data_converter=pydantic_data_converter))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()
        self._worker.terminate()
        self._worker.join(30)

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        return self._worker.pid or 0

    def measure(self, tenant_id: str) -> EmptyRun:
        return self._runner.run(self._measure(tenant_id))

    def run_all(self, tenants: Sequence[str], patience: float) -> float:
        """Start the workflows of all tenants at once; return the seconds until the last `activate` is completed.

        Raises:
            TimeoutError: it is not completed after `patience` seconds.
            RuntimeError: the worker has ended.
        """
        began, expected = time.monotonic(), self._active.value + len(tenants)
        self._runner.run(self._start_all(tenants))
        while self._active.value < expected:
            self._require_worker()
            if time.monotonic() - began > patience:
                raise TimeoutError(f"{expected - self._active.value} empty workflows run after {patience} s")
            time.sleep(_CHILD_POLL_SECONDS)
        return time.monotonic() - began

    async def _start_all(self, tenants: Sequence[str]) -> None:
        limit = asyncio.Semaphore(_STARTS_AT_ONCE)
        client = WorkflowClient(self._client, self._promise)

        async def start(tenant_id: str) -> None:
            async with limit:
                await client.enable(tenant_id, REGION, f"event-{tenant_id}")

        await asyncio.gather(*(start(tenant_id) for tenant_id in tenants))

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
                self._require_worker()
                await asyncio.sleep(_CHILD_POLL_SECONDS)
        history = await child.fetch_history()
        ends = [
            event.event_time.ToDatetime(UTC).timestamp() - began
            for event in history.events
            if _is_of(event, Step.ACTIVATE) or event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
        ]
        return EmptyRun(active=ends[0], done=ends[-1])

    def _require_worker(self) -> None:
        if not self._worker.is_alive():
            raise RuntimeError("the worker with the empty activities has ended")


def _is_of(event: HistoryEvent, step: Step) -> bool:
    """Return whether this is the marker of a completed local activity for the step."""
    data = event.marker_recorded_event_attributes.details["data"].payloads if event.HasField(_MARKER) else ()
    return any(json.loads(payload.data)["activity_type"] == step for payload in data)


def _activities(provision: Callable[[str], object], active: "Synchronized[int]") -> list[Callable[..., Any]]:
    """Return an activity for each step, registered under its name; synchronous (`def`), as the real ones are."""

    def nothing_as(step: Step) -> Callable[..., Any]:
        def nothing(_: StepInput) -> None:
            pass

        return activity.defn(name=step)(nothing)

    @activity.defn(name=Step.CREATE_KEYS)
    def create_keys(step: StepInput) -> None:
        provision(step.tenant_id)

    @activity.defn(name=Step.ACTIVATE)
    def activate(_: StepInput) -> ActivateResult:
        with active.get_lock():
            active.value += 1
        return ActivateResult(messages=0)

    @activity.defn(name=Step.ANNOUNCE)
    def announce(_: AnnounceInput) -> None:
        pass

    @activity.defn(name="load-tenant")
    def load_tenant(_: StepInput) -> StoredTenant:
        return StoredTenant(memory=TenantWorkflowState(provision=True))

    empty = [Step.OPEN_RECORDS, Step.CREATE_AUTHORITY, Step.CHECK_BOUNDARIES]
    return [load_tenant, create_keys, activate, announce, *(nothing_as(step) for step in empty)]


def _bare_calls(settings: Settings, recording: Recording) -> Callable[[str], object]:
    """Return a function that makes the bare calls for a tenant, on connections of its thread."""
    mine = threading.local()

    def provision(tenant_id: str) -> None:
        if not hasattr(mine, "script"):
            mine.script = BareScript(settings, recording)
        mine.script.provision(tenant_id)

    return provision


def _run_worker(settings: Settings, recording: Recording | None, active: "Synchronized[int]") -> None:
    provision = _bare_calls(settings, recording) if recording is not None else lambda _tenant_id: None
    asyncio.run(_work(settings, _activities(provision, active)))


async def _work(settings: Settings, activities: list[Callable[..., Any]]) -> None:
    client = await Client.connect(settings.temporal_address or "", data_converter=pydantic_data_converter)
    async with run_region(
        client,
        REGION,
        [Tenant, ProvisionTenant],
        activities,
        activity_executor=ThreadPoolExecutor(settings.worker_threads),
        max_concurrent_activities=settings.worker_threads,
        workflow_runner=UnsandboxedWorkflowRunner(),  # as the product's worker
    ):
        await asyncio.Event().wait()
