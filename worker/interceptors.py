"""Interceptors of activities: translation of errors, and the correlation id.

An OpenKcmError becomes an ApplicationError of Temporal; its class decides whether it is retryable. Any other exception
becomes "internal" with a reference to the log: its text may contain secrets and must not enter the history. Each failed
attempt is also written to the step's row, which pages and commands show.

The workflow id is the correlation id of its activities; adapters send it to servers and audit events contain it.
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
from workflows.runtime.timeouts import retry_pause

log = structlog.get_logger()

_JITTER = 0.25


class FailureInterceptor(Interceptor):
    def __init__(self, database: Database) -> None:
        self._database = database

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Wrap each activity with the translation of errors."""
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
            await self._record_failed_attempt(input, ours.code, final=not ours.retryable)
            log.warning("step failed", code=ours.code, reason=ours.message, **_where())
            raise ApplicationError(
                ours.message,
                ours.hint,  # a detail, which the workflow returns to the caller of its update
                type=ours.code,
                non_retryable=not ours.retryable,
                next_retry_delay=_delay(),
            ) from None
        except Exception:
            reference = uuid4().hex[:12]
            log.exception("step failed unexpectedly", reference=reference, **_where())
            await self._record_failed_attempt(input, "internal", final=False)
            raise ApplicationError(
                f"internal error, reference {reference} in the worker's log", type="internal", next_retry_delay=_delay()
            ) from None

    async def _record_failed_attempt(self, input: ExecuteActivityInput, code: str, *, final: bool) -> None:  # noqa: A002 - the SDK's name
        """Write the failed attempt to the step's row; this may fail too, because the database may be down."""
        step = input.args[0] if input.args else None
        name = activity.info().activity_type
        if not isinstance(step, StepInput) or name not in set(Step):
            return
        try:
            await asyncio.to_thread(self._write, step, Step(name), code, final=final)
        except OpenKcmError as unwritten:
            log.info("failed attempt not recorded", code=unwritten.code, **_where())

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
    """Return the backoff before the next attempt, with jitter so that many retries do not coincide."""
    return retry_pause(activity.info().attempt) * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret


class CorrelationInterceptor(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Set the correlation id for each activity; the SDK copies the context to the activity's thread."""
        return _Correlated(next)


class _Correlated(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002 - the SDK's name
        token = correlation_id.set(activity.info().workflow_id or "")
        try:
            return await self.next.execute_activity(input)
        finally:
            correlation_id.reset(token)
