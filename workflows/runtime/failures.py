"""Conversion of errors to failures of a workflow: code, message and hint, unencrypted.

Message and hint share one text, because details of a failure are encrypted like any payload and callers in other
processes have no payload key. Code, message and hint contain no secret (core.errors.platform).
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    FailureError,
    WorkflowAlreadyStartedError,
)

with workflow.unsafe.imports_passed_through():
    from core.errors.tenants import OperationCancelled
    from openkcm.errors import OpenKcmError

_INTERNAL = "internal"

STOPPED = (ActivityError, asyncio.CancelledError)
"""What ends an operation early: the failure of a step, or the cancellation of the operation's workflow. The workflow
undoes the operation in both cases, and then ends."""

FAILURES = (ActivityError, ChildWorkflowError, WorkflowAlreadyStartedError)
"""Errors of a step or a child that failed, was terminated, or still runs for an earlier workflow.

In a signal handler or in the main loop each of them would end the workflow for good.
"""


def refusal(error: OpenKcmError) -> ApplicationError:
    """Return the failure that an update or its validator raises for an OpenKcmError."""
    return _failure(error.code, error.message, error.hint)


def refusal_of(failed: FailureError) -> ApplicationError:
    """Return the failure that an update raises when one of its steps or children has failed."""
    cause = _cause(failed)
    if cause is None:
        return _failure(_INTERNAL, "the operation was stopped", "see the workflow in the temporal ui")
    hint = cause.details[0] if cause.details else ""
    return _failure(code_of(failed), cause.message, hint if isinstance(hint, str) else "")


def code_of(failed: FailureError | asyncio.CancelledError) -> str:
    """Return the code of the error that ended a step or a child."""
    if isinstance(failed, asyncio.CancelledError):
        return OperationCancelled.code
    cause = _cause(failed)
    return cause.type if cause is not None and cause.type else _INTERNAL


def is_retryable(failed: FailureError) -> bool:
    """Return whether a step that ended by its deadline can still succeed in a later attempt."""
    cause = _cause(failed)
    return cause is None or not cause.non_retryable


def step_of(failed: ActivityError | asyncio.CancelledError) -> str:
    """Return the name of the failed step; `cancelled` when the workflow was cancelled."""
    return "cancelled" if isinstance(failed, asyncio.CancelledError) else failed.activity_type


def _cause(failed: FailureError) -> ApplicationError | None:
    cause = failed.cause
    while isinstance(cause, ActivityError | ChildWorkflowError):
        cause = cause.cause
    return cause if isinstance(cause, ApplicationError) else None


def _failure(code: str, message: str, hint: str) -> ApplicationError:
    return ApplicationError(f"{message}\n{hint}", type=code, non_retryable=True)
