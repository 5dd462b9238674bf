import asyncio
import threading
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from core.errors.platform import TemporalUnavailable
from core.errors.tenants import TenantUnknown
from dashboard.workflow_bridge import WorkflowBridge
from workflows.client.updates import OperationQueued
from workflows.client.workflow_client import WorkflowClient


class RecordingGateway:
    """Records the event loop of each request."""

    def __init__(self) -> None:
        self.loops: set[int] = set()

    async def retry(self, tenant_id: str) -> None:
        await asyncio.sleep(0)
        self.loops.add(id(asyncio.get_running_loop()))
        if tenant_id == "unknown":
            raise TenantUnknown
        if tenant_id == "waiting":
            raise OperationQueued


def bridge_to(gateway: object, connected: list[int]) -> WorkflowBridge:
    async def connect() -> WorkflowClient:
        await asyncio.sleep(0)
        connected.append(1)
        return cast("WorkflowClient", gateway)

    return WorkflowBridge(connect)


def test_threads_share_one_client_in_one_loop() -> None:
    asked, connected = RecordingGateway(), []
    bridge = bridge_to(asked, connected)
    bridge.retry("acme")
    crowd = [threading.Thread(target=bridge.retry, args=["acme"]) for _ in range(8)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    assert (len(asked.loops), connected) == (1, [1])


def test_an_error_of_the_workflow_is_raised_unchanged() -> None:
    with pytest.raises(TenantUnknown):
        bridge_to(RecordingGateway(), []).retry("unknown")


def test_without_temporal_the_bridge_is_created_and_each_call_fails(free_port: int) -> None:
    async def connect() -> WorkflowClient:
        return await WorkflowClient.connect(f"127.0.0.1:{free_port}", 180.0)

    bridge: Any = WorkflowBridge(connect)
    for _ in range(2):  # the second call connects again
        with pytest.raises(TemporalUnavailable):
            bridge.connect_service("acme", "eu-west-1", "orders", "r-1", another_key=False)


def test_the_log_names_the_component_that_a_page_does_not_name() -> None:
    with capture_logs() as logged, pytest.raises(OperationQueued):
        bridge_to(RecordingGateway(), []).retry("waiting")
    [line] = logged
    assert (line["event"], line["code"]) == ("request not completed", "operation_queued")
    assert "worker" in line["problem"]
