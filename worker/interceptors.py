"""The one place where an activity's exception becomes Temporal's: retryability is a property of the error's class.

What is not ours becomes "internal" with a reference into the log; its own text, which may hold anything, stays out of
the history. Each failed attempt is also written to the step's row, which is what people watch.

Gives every activity its workflow's id as correlation id, which adapters send along and audit records have.
"""

import asyncio
import random
from datetime import timedelta
from uuid import uuid4

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from core.correlation import correlation_id
from core.messages.base import StepInput
from core.tenants.provisioning import Step
from database.connection.database import Database
from openkcm.errors import OpenKcmError
from workflows.runtime import timeouts as timing

log = structlog.get_logger()

_JITTER = 0.25


class FailureInterceptor(Interceptor):
    def __init__(self, database: Database) -> None:
        self._database = database

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Put the translation around every activity."""
        return _Translation(next, self._database)


class _Translation(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, database: Database) -> None:
        super().__init__(following)
        self._database = database

    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002 - the SDK's name
        try:
            return await self.next.execute_activity(input)
        except (FailureError, asyncio.CancelledError):
            raise
        except OpenKcmError as ours:
            await self._note(input, ours.code, final=not ours.retryable)
            log.warning("step failed", code=ours.code, reason=ours.message, **_where())
            raise ApplicationError(
                ours.message,
                ours.hint,  # a detail, which the workflow reads that has somebody waiting for its answer
                type=ours.code,
                non_retryable=not ours.retryable,
                next_retry_delay=_delay(),
            ) from None
        except Exception:
            reference = uuid4().hex[:12]
            log.exception("step failed unexpectedly", reference=reference, **_where())
            await self._note(input, "internal", final=False)
            raise ApplicationError(
                f"internal error, reference {reference} in the worker's log", type="internal", next_retry_delay=_delay()
            ) from None

    async def _note(self, input: ExecuteActivityInput, code: str, *, final: bool) -> None:  # noqa: A002 - the SDK's name
        """Write the failed attempt to the step's row; the database may be what failed, so this may fail too."""
        step = input.args[0] if input.args else None
        name = activity.info().activity_type
        if not isinstance(step, StepInput) or name not in set(Step):
            return
        try:
            await asyncio.to_thread(self._write, step, Step(name), code, final=final)
        except OpenKcmError as unwritten:
            log.info("failed attempt not noted", code=unwritten.code, **_where())

    def _write(self, step: StepInput, name: Step, code: str, *, final: bool) -> None:
        with self._database.tenant_tx(step.tenant_id) as tx:
            if final:
                tx.steps.fail(step.operation_id, name, code)
            else:
                tx.steps.retry(step.operation_id, name, code)


def _where() -> dict[str, object]:
    info = activity.info()
    return {"step": info.activity_type, "workflow_id": info.workflow_id, "attempt": info.attempt}


def _delay() -> timedelta:
    """Return the wait before the next attempt: `timing`'s exponential one, spread so that a crowd does not march."""
    wait = min(timing.FIRST_RETRY_SECONDS * 2 ** (activity.info().attempt - 1), timing.LARGEST_RETRY_SECONDS)
    return timedelta(seconds=wait * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - spreads load, guards nothing


class CorrelationInterceptor(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Put the id around every activity; the SDK hands the context on to the activity's thread."""
        return _Correlated(next)


class _Correlated(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002 - the SDK's name
        token = correlation_id.set(activity.info().workflow_id or "")
        try:
            return await self.next.execute_activity(input)
        finally:
            correlation_id.reset(token)
