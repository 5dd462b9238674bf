"""DeliverNotification through the workflow client: one run for one request, and rejection."""

import uuid

import pytest

from core.messages.notifications import DeliverInput
from tests.workflows.entities import a_tenant_id, refused
from workflows.client.workflow_client import WorkflowClient
from workflows.notifications import DeliverNotification

WORKFLOWS = [DeliverNotification]


@pytest.fixture
def deliver(client, region):
    tenant_id = a_tenant_id()
    request = DeliverInput(tenant_id=tenant_id, operation_id=uuid.uuid4().hex, target_id="a" * 32)

    async def deliver() -> None:
        await WorkflowClient(client, 60).deliver_notification(tenant_id, region, request)

    return deliver


async def test_request_sends_once_and_its_input_has_only_ids(deliver, script):
    await deliver()
    assert script.calls == ["deliver-to-target"]
    [step] = script.inputs["deliver-to-target"]
    assert set(step.model_dump()) == {"tenant_id", "operation_id", "target_id", "message_id"}


async def test_rejected_request_returns_code_message_and_hint(deliver, script):
    script.refused["deliver-to-target"] = "notification_target_unknown"
    error = await refused("notification_target_unknown", deliver())
    assert (error.message, error.hint) == ("refused", "ask")
