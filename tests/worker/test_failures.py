"""Translation of errors: an OpenKcmError keeps its code, any other error is opaque, and the step's row counts both."""

import dataclasses
import random
import uuid
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, UnsandboxedWorkflowRunner, Worker

from core.errors.compliance import CanaryMissing, IsolationBreached
from core.errors.platform import ConflictingResource, VaultUnavailable
from core.messages.base import StepInput
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.provisioning import StepRow
from openkcm.errors import OpenKcmError
from worker.interceptors import FailureInterceptor

SECRET = "hvs.CAESIJlU9JMYEhOPYv4igdhm9PnZDrabYTobQ4Ymnlq1qY"


class Raising(ActivityInboundInterceptor):
    """A replacement of the activity that raises an error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ARG002 - the SDK's name
        raise self._error


async def translated(
    database: Database, error: BaseException, step: StepInput, name: str = Step.CREATE_KEYS, attempt: int = 1
) -> BaseException:
    """Return the error that Temporal receives when the activity `name` raises `error`."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, activity_type=name, attempt=attempt)
    around = FailureInterceptor(database).intercept_activity(Raising(error))

    async def execute() -> None:
        await around.execute_activity(ExecuteActivityInput(fn=print, args=[step], executor=None, headers={}))

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - the caller checks it
        await environment.run(execute)
    return raised.value


def row_of(database: Database, step: StepInput) -> StepRow:
    with database.tenant_tx(step.tenant_id) as tx:
        [row] = [row for row in tx.steps.latest() if row.step is Step.CREATE_KEYS]
    return row


@pytest.fixture
def step(tenant) -> StepInput:
    """Return a step of a tenant with records."""
    tenant.run(Step.OPEN_RECORDS)
    return tenant.step


@pytest.mark.parametrize(
    "error", [VaultUnavailable(), CanaryMissing(), IsolationBreached(("M2",)), ConflictingResource("key", "k", "type")]
)
async def test_product_error_keeps_its_code_and_whether_it_is_retryable(parts, step, error: OpenKcmError):
    seen = await translated(parts.database, error, step)
    assert isinstance(seen, ApplicationError)
    assert (seen.type, seen.message, seen.non_retryable) == (error.code, error.message, not error.retryable)
    assert seen.details == (error.hint,)
    assert seen.__cause__ is None


async def test_foreign_error_shows_a_reference_and_none_of_its_text(parts, step, monkeypatch):
    # Another test may have configured logs in this process and bound the module's logger.
    monkeypatch.setattr("worker.interceptors.log", structlog.get_logger())
    with capture_logs() as logs:
        seen = await translated(parts.database, RuntimeError(f"token {SECRET}"), step)
    assert isinstance(seen, ApplicationError)
    assert (seen.type, seen.non_retryable) == ("internal", False)
    assert SECRET not in str(seen)
    assert seen.__cause__ is None
    reference = seen.message.split("reference ")[1].split()[0]
    assert reference in [entry.get("reference") for entry in logs]


@pytest.mark.parametrize(
    ("errors", "row"),
    [
        ((VaultUnavailable(), RuntimeError("oops"), VaultUnavailable()), ("retrying", 3, "vault_unavailable")),
        ((IsolationBreached(("M2",)),), ("failed", 1, "isolation_breached")),
    ],
    ids=["retried", "final"],
)
async def test_failed_attempt_is_recorded_in_the_row_of_its_step(parts, step, errors, row):
    for attempt, error in enumerate(errors, start=1):
        await translated(parts.database, error, step, attempt=attempt)
    found = row_of(parts.database, step)
    assert (found.state, found.attempts, found.problem) == row


async def test_activity_that_is_no_step_changes_no_row(parts, step):
    before = row_of(parts.database, step)
    await translated(parts.database, VaultUnavailable(), step, name="record-slo-breach")
    assert row_of(parts.database, step) == before


async def test_unreachable_database_does_not_hide_the_original_error(parts, step, field):
    with field.server.offline(field.name):
        seen = await translated(parts.database, VaultUnavailable(), step)
    assert isinstance(seen, ApplicationError)
    assert seen.type == "vault_unavailable"
    assert row_of(parts.database, step).attempts == 0


async def test_failure_of_temporal_passes_unchanged(parts, step):
    own = ApplicationError("as it is", type="own")
    assert await translated(parts.database, own, step) is own


@pytest.mark.parametrize(("attempt", "expected"), [(1, 0.2), (3, 0.8), (60, 5.0), (1025, 5.0), (10**6, 5.0)])
async def test_backoff_grows_to_its_limit_with_jitter(parts, step, attempt, expected):
    random.seed(attempt)
    waits = set()
    for _ in range(4):
        seen = await translated(parts.database, VaultUnavailable(), step, name="record-slo-breach", attempt=attempt)
        assert isinstance(seen, ApplicationError)
        assert seen.next_retry_delay is not None
        waits.add(seen.next_retry_delay.total_seconds() / expected)
    assert all(0.75 <= wait <= 1.25 for wait in waits)
    assert len(waits) > 1


@workflow.defn(name="OneStep", sandboxed=False)
class OneStep:
    @workflow.run
    async def run(self, step: StepInput) -> None:
        await workflow.execute_activity(
            Step.CREATE_KEYS,
            step,
            start_to_close_timeout=timedelta(seconds=10),
            retry_policy=RetryPolicy(maximum_attempts=2, initial_interval=timedelta(milliseconds=1)),
        )


@activity.defn(name=Step.CREATE_KEYS)
async def leaking(_step: StepInput) -> None:
    """Raise an error whose text contains a secret."""
    raise ConnectionError(f"403 for token {SECRET}")


async def test_text_of_a_foreign_error_never_enters_a_history(temporal, parts, step):
    client = await Client.connect(temporal.address, data_converter=pydantic_data_converter)
    name = f"one-step-{uuid.uuid4().hex}"
    async with Worker(
        client,
        task_queue=name,
        workflows=[OneStep],
        activities=[leaking],
        interceptors=[FailureInterceptor(parts.database)],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = await client.start_workflow(OneStep.run, step, id=name, task_queue=name)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ActivityError)
    assert failed.value.cause.cause.type == "internal"
    assert SECRET not in (await handle.fetch_history()).to_json()
    assert row_of(parts.database, step).attempts == 2
