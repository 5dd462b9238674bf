"""Connection of the canary tenants' services through the workflow client, as for any other service."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from activities.isolation.probe_services import ProbeServiceNotReady
from openkcm.errors import CallerError, PlatformError
from workflows.client.workflow_client import WorkflowClient

_POLL_SECONDS = 0.2


class WorkerStopping(PlatformError):
    """The awaited workflow needs a worker, and this worker shuts down."""

    code: ClassVar[str] = "worker_stopping"
    message = "the worker is shutting down"
    hint = "the next worker retries the operation"


class ProbeServiceConnections:
    """A `ServiceConnections` for activity threads, with a new Temporal connection for each call.

    The activities of the service's workflow need a thread of the same pool, so parallel assessments MUST leave some
    free. Raises WorkerStopping once `stopping` is set: a draining worker would never execute these activities.
    """

    def __init__(
        self, temporal_address: str | None, provisioning_slo_seconds: float, stopping: threading.Event
    ) -> None:
        self._address = temporal_address
        self._promise_seconds = provisioning_slo_seconds
        self._stopping = stopping

    def connect(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        self._execute(lambda gateway: gateway.connect_service(tenant_id, region, service, request_id))

    def disconnect(self, tenant_id: str, region: str, service: str) -> None:
        self._execute(lambda gateway: gateway.disconnect_service(tenant_id, region, service))

    def _execute(self, operation: Callable[[WorkflowClient], Coroutine[Any, Any, None]]) -> None:
        async def execute() -> None:
            running = asyncio.create_task(operation(await WorkflowClient.connect(self._address, self._promise_seconds)))
            while not running.done():
                if self._stopping.is_set():
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                    raise WorkerStopping
                await asyncio.wait({running}, timeout=_POLL_SECONDS)
            running.result()

        try:
            asyncio.run(execute())
        except CallerError as refused:
            raise ProbeServiceNotReady from refused
