"""Conversion of errors to failures of a workflow: code, message and hint, unencrypted.

Message and hint share one text, because details of a failure are encrypted like any payload and callers in other
processes have no payload key. Code, message and hint contain no secret (core.errors.platform).
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from openkcm.errors import OpenKcmError

_INTERNAL = "internal"


def refusal(error: OpenKcmError) -> ApplicationError:
    """Return the failure that an update or its validator raises for an OpenKcmError."""
    return _failure(error.code, error.message, error.hint)


def refusal_of(failed: ActivityError) -> ApplicationError:
    """Return the failure that an update raises when one of its steps has failed."""
    cause = _cause(failed)
    if cause is None:
        return _failure(_INTERNAL, "the operation was stopped", "see the workflow in the temporal ui")
    hint = cause.details[0] if cause.details else ""
    return _failure(code_of(failed), cause.message, hint if isinstance(hint, str) else "")


def code_of(failed: ActivityError) -> str:
    """Return the code of the error that ended a step."""
    cause = _cause(failed)
    return cause.type if cause is not None and cause.type else _INTERNAL


def _cause(failed: ActivityError) -> ApplicationError | None:
    return failed.cause if isinstance(failed.cause, ApplicationError) else None


def _failure(code: str, message: str, hint: str) -> ApplicationError:
    return ApplicationError(f"{message}\n{hint}", type=code, non_retryable=True)
