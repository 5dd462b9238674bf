"""GenerateReport through the workflow client: order, one run for one id, and rejection."""

import uuid

import pytest

from tests.workflows.entities import a_tenant_id, refused
from workflows.client.updates import OperationTimeout
from workflows.client.workflow_client import WorkflowClient
from workflows.reports import GenerateReport

WORKFLOWS = [GenerateReport]
STEPS = ["snapshot-report", "sign-audit-checkpoint", "render-report"]


@pytest.fixture
def make(client, region):
    tenant_id, report_id = a_tenant_id(), uuid.uuid4().hex

    async def make(patience_seconds: float = 60) -> None:
        await WorkflowClient(client, 60, patience_seconds).make_report(tenant_id, region, report_id)

    return make


async def test_checkpoint_is_signed_before_the_report_is_generated(make, script):
    await make()
    assert script.calls == STEPS
    assert len({(step.tenant_id, step.report_id) for name in STEPS[::2] for step in script.inputs[name]}) == 1


async def test_rejected_report_returns_code_message_and_hint(make, script):
    script.refused["render-report"] = "report_unknown"
    error = await refused("report_unknown", make())
    assert (error.message, error.hint) == ("refused", "ask")


async def test_repeated_request_joins_a_report_that_waits_for_a_server(make, script):
    script.down.add("sign-audit-checkpoint")
    with pytest.raises(OperationTimeout):
        await make(patience_seconds=1)
    script.down.clear()
    await make()
    assert script.calls == STEPS
