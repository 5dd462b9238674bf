"""MakeReport as those outside see it, through the gateway: its order, one run for one id, and why one is refused."""

import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from tenancy import ids
from tenancy.messages import StepInput
from tenancy.report_messages import ReportStep
from workflows.gateway import Gateway, NotDoneInTime, UpdateRefused
from workflows.report import MakeReport

TENANT, REPORT_ID = "acme-corp", "6f" * 16


class Script:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refused, self.down = "", ""

    def activities(self) -> list[object]:
        return [self._state, self._sign, self._make]

    def _called(self, name: str, step: StepInput) -> None:
        assert step.tenant_id == TENANT
        if name == self.down:
            raise ApplicationError("down", "start it", type="database_unavailable")
        if name == self.refused:
            raise ApplicationError("nobody asked", "ask", type="report_unknown", non_retryable=True)
        self.calls.append(name)

    @activity.defn(name="state-report")
    async def _state(self, step: ReportStep) -> None:
        assert step.report_id == REPORT_ID
        self._called("state-report", step)

    @activity.defn(name="sign-audit-head")
    async def _sign(self, step: StepInput) -> None:
        self._called("sign-audit-head", step)

    @activity.defn(name="make-report")
    async def _make(self, step: ReportStep) -> None:
        self._called("make-report", step)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def region(client: Client, script: Script) -> AsyncIterator[str]:
    name = f"eu-{uuid.uuid4().hex}-1"
    async with Worker(
        client,
        task_queue=ids.task_queue(name),
        workflows=[MakeReport],
        activities=script.activities(),  # type: ignore[arg-type]  # activities of a script
    ):
        yield name


async def test_what_is_stated_is_bound_and_signed_before_anything_is_counted(client, script, region):
    await Gateway(client, 60).make_report(TENANT, region, REPORT_ID)
    assert script.calls == ["state-report", "sign-audit-head", "make-report"]


async def test_a_report_that_cannot_be_made_says_why(client, script, region):
    script.refused = "make-report"
    with pytest.raises(UpdateRefused) as refused:
        await Gateway(client, 60).make_report(TENANT, region, REPORT_ID)
    assert (refused.value.code, refused.value.message, refused.value.hint) == ("report_unknown", "nobody asked", "ask")


async def test_one_that_waits_for_a_server_is_found_again_by_its_id(client, script, region):
    script.down = "sign-audit-head"
    with pytest.raises(NotDoneInTime):
        await Gateway(client, 60, patience_seconds=1).make_report(TENANT, region, REPORT_ID)
    script.down = ""
    await Gateway(client, 60).make_report(TENANT, region, REPORT_ID)
    assert script.calls == ["state-report", "sign-audit-head", "make-report"]
