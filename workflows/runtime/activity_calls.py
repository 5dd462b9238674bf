"""How workflows call activities: typed, summarised for the Temporal UI, with the deadlines of `timing`."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from core.messages.base import StepInput
    from workflows.runtime import timeouts as timing

Input = TypeVar("Input", bound=StepInput)
Result = TypeVar("Result")


async def run_activity(  # noqa: PLR0913, PLR0917 - what is done, and how patiently
    activity: Callable[[Any, Input], Result],
    step: Input,
    summary: str,
    attempt: timedelta = timing.ATTEMPT,
    patience: timedelta | None = None,
    heartbeat: timedelta | None = None,
) -> Result:
    """Run one activity to its end, trying again for ever unless its error says that this is useless.

    Args:
        activity: the activity's method.
        step: its input.
        summary: what the Temporal UI shows beside it.
        attempt: after how long an attempt counts as lost.
        patience: how long to go on trying; None for without end.
        heartbeat: how long an attempt may be silent; None for one that says nothing before its end.
    """
    return await workflow.execute_activity_method(
        activity,
        step,
        summary=summary,
        start_to_close_timeout=attempt,
        schedule_to_close_timeout=patience,
        heartbeat_timeout=heartbeat,
        retry_policy=timing.RETRY,
    )


async def run_local_activity(activity: Callable[[Any, Input], Result], step: Input, summary: str) -> Result:
    """Run an activity that only writes our own records, inside the workflow task that asks for it.

    As a local activity it saves a round through Temporal, which every tenant would wait for and pay for. What it gives
    up is the pending activity that operators look at while it is tried again, so nothing that reaches beyond our own
    database may be run like this.

    Raises:
        ActivityError: as `perform` does, when the error says that trying again is useless.
    """
    try:
        return await workflow.execute_local_activity_method(
            activity, step, summary=summary, start_to_close_timeout=timing.ATTEMPT, retry_policy=timing.RETRY
        )
    except ApplicationError as cause:
        # A local activity's error comes without the wrapping that says which activity it was. Put on here, it lets
        # those who call `perform` and `note` side by side catch one class.
        raise ActivityError(
            f"{activity.__name__} failed",
            scheduled_event_id=0,
            started_event_id=0,
            identity="",
            activity_type=activity.__name__.replace("_", "-"),
            activity_id="",
            retry_state=None,
        ) from cause
