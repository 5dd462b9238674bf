"""Calls of activities from workflows: typed, with a summary for the Temporal UI and the timeouts of `timeouts`.

Temporal reports the cancellation of a workflow during an activity as a failure of the activity. `except ActivityError`
would swallow it, and the workflow would continue. Therefore each call raises CancelledError instead.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from core import names as ids
    from core.messages.base import StepInput
    from core.names import ActivityKind
    from workflows.runtime import timeouts as timing

Input = TypeVar("Input", bound=StepInput)
Result = TypeVar("Result")


async def run_activity(  # noqa: PLR0913, PLR0917 - the activity and its timeouts
    activity: Callable[[Any, Input], Result],
    step: Input,
    summary: str,
    attempt: timedelta = timing.ATTEMPT,
    deadline: timedelta | None = None,
    heartbeat: timedelta | None = None,
    kind: ActivityKind = ActivityKind.SHORT,
    cancellation: workflow.ActivityCancellationType = workflow.ActivityCancellationType.TRY_CANCEL,
) -> Result:
    """Run an activity and retry it until it succeeds or fails with an error that is not retryable.

    Args:
        activity: the activity's method.
        step: its input.
        summary: the text in the Temporal UI.
        attempt: the timeout of one attempt.
        deadline: the timeout of all attempts together; None for no limit.
        heartbeat: the longest time between heartbeats; None for an activity without heartbeats.
        kind: whose task queue and slots it takes, so that slow work delays no short work.
        cancellation: whether a cancellation of the workflow waits for the end of a running attempt.

    Raises:
        ActivityError: the activity failed with an error that is not retryable, or by its deadline.
        CancelledError: the workflow was cancelled.
    """
    try:
        return await workflow.execute_activity_method(
            activity,
            step,
            task_queue=activity_queue(kind),
            summary=summary,
            start_to_close_timeout=attempt,
            schedule_to_close_timeout=deadline,
            heartbeat_timeout=heartbeat,
            retry_policy=timing.RETRY,
            cancellation_type=cancellation,
        )
    except ActivityError as failed:
        raise_if_cancelled(failed)
        raise


def activity_queue(kind: ActivityKind) -> str:
    """Return the task queue of a class of activities in the region of the running workflow."""
    return ids.activity_queue(kind, ids.region_of_queue(workflow.info().task_queue))


async def run_key_server_activity(activity: Callable[[Any, Input], Result], step: Input, summary: str) -> Result:
    """Run an activity whose heartbeats are the responses of the key server (`activities.runtime.step_progress`).

    An attempt lasts as long as the server responds, so a slow server does not make it start again. A cancellation of
    the workflow waits for the end of a running attempt: its compensation would miss what the attempt still creates.
    """
    return await run_activity(
        activity,
        step,
        summary,
        timing.KEY_SERVER_ATTEMPT,
        heartbeat=timing.KEY_SERVER_HEARTBEAT,
        cancellation=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def run_local_activity(
    activity: Callable[[Any, Input], Result], step: Input, summary: str, *, once: bool = False
) -> Result:
    """Run an activity that only writes to the platform's database, inside the workflow task.

    A local activity saves a round trip through Temporal, which would cost each tenant time and CPU. It shows no pending
    activity during retries, so an activity that calls another server MUST NOT run like this.

    With `once`, the caller repeats it after a failure that `failures.is_retryable`.

    Raises:
        ActivityError, CancelledError: as `run_activity` does.
    """
    try:
        return await workflow.execute_local_activity_method(
            activity,
            step,
            summary=summary,
            start_to_close_timeout=timing.ATTEMPT,
            retry_policy=timing.ONCE if once else timing.RETRY,
        )
    except FailureError as cause:
        raise_if_cancelled(cause)
        if not isinstance(cause, ApplicationError):
            raise
        # A local activity raises its error without the ActivityError that names the activity. With it, callers catch
        # one class for both kinds of calls.
        raise ActivityError(
            f"{activity.__name__} failed",
            scheduled_event_id=0,
            started_event_id=0,
            identity="",
            activity_type=activity.__name__.replace("_", "-"),
            activity_id="",
            retry_state=None,
        ) from cause


def raise_if_cancelled(failed: FailureError) -> None:
    """Raise CancelledError when a call failed because the workflow was cancelled."""
    if is_cancelled_exception(failed):
        raise asyncio.CancelledError from failed
