"""How the platform's own services are connected: through the gateway, as anybody else connects a service."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from temporalio import activity

from activities.isolation.probe_services import ProbeServiceNotReady
from openkcm.errors import CallerError, PlatformError
from workflows.client.workflow_client import WorkflowClient

_LOOK_SECONDS = 0.2


class WorkerStopping(PlatformError):
    """The workflow that is waited for needs a worker, and this one takes up nothing more."""

    code: ClassVar[str] = "worker_stopping"
    message = "the worker is being stopped"
    hint = "what it was about is tried again by the next worker"


class ProbeServiceConnections:
    """`ServiceConnections`. Called from an activity's thread, with a connection for each call.

    The activities of the service's workflow need a thread of the same pool: whoever examines many tenants at once
    MUST leave some. Raises WorkerStopping instead of waiting for what a worker that drains would never do.
    """

    def __init__(self, temporal_address: str | None, promise_seconds: float) -> None:
        self._address = temporal_address
        self._promise_seconds = promise_seconds

    def connect(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        self._ask(lambda gateway: gateway.connect_service(tenant_id, region, service, request_id))

    def disconnect(self, tenant_id: str, region: str, service: str) -> None:
        self._ask(lambda gateway: gateway.disconnect_service(tenant_id, region, service))

    def _ask(self, question: Callable[[WorkflowClient], Coroutine[Any, Any, None]]) -> None:
        async def ask() -> None:
            asking = asyncio.create_task(question(await WorkflowClient.connect(self._address, self._promise_seconds)))
            while not asking.done():
                if activity.in_activity() and activity.is_worker_shutdown():
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                    raise WorkerStopping
                await asyncio.wait({asking}, timeout=_LOOK_SECONDS)
            asking.result()

        try:
            asyncio.run(ask())
        except CallerError as refused:
            raise ProbeServiceNotReady from refused
