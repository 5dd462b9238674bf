"""The wait for an update: until a worker accepts it, then until it is complete."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from temporalio.client import (
    WorkflowFailureError,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from core.errors.platform import TemporalUnavailable
from core.errors.tenants import WorkflowStarting
from openkcm.errors import CallerError, OpenKcmError, PlatformError
from workflows.client.connection import unavailable

log = structlog.get_logger()

_QUEUED_SECONDS = 3600.0
"""How long a process submits an update that no worker accepts."""
_REPEAT_SECONDS = 0.1
_RECONNECT_SECONDS = 1.0
_ENDED_MEANWHILE = "AcceptedUpdateCompletedWorkflow"
"""Temporal's failure type when a run ended while it had an accepted update; the next run accepts the request."""

DOWN = (RPCError, RuntimeError)
"""Errors of a call when Temporal is unreachable; a lazy client raises RuntimeError on its first connection."""
_UNREACHABLE = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.UNKNOWN, RPCStatusCode.CANCELLED, RPCStatusCode.DEADLINE_EXCEEDED}
)
"""Of these, a call that may succeed unchanged; the core reports a lost connection as any of them."""

Submit = Callable[[], Awaitable[WorkflowUpdateHandle[Any]]]
"""Submits an update and returns when a worker has accepted it; each call has the same update id."""


class UpdateRejected(CallerError):
    """A validator rejected an update; the error has the validator's code, message and hint."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the code comes from the workflow


class OperationTimeout(PlatformError):
    code = "operation_timeout"
    message = "the request is not complete yet"
    hint = "it continues automatically when the server or worker that it waits for is available; retry is safe"


class OperationQueued(OperationTimeout):
    """No worker accepted the request in time, or Temporal does not answer; this process continues to submit it."""

    code = "operation_queued"
    message = "no worker has accepted the request yet"
    hint = "check that a worker runs (openkcmctl doctor), then repeat the request, which is safe"


@dataclass(eq=False, slots=True)
class _Request:
    """An update on its way, after the `former` one of its workflow.

    `accepted` is set when a worker has accepted it, or it has ended. `fault` is that of the connection before.
    """

    submit: Submit
    former: "_Request | None"
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    fault: TemporalUnavailable | None = None

    async def run(self, *, queues: bool) -> None:
        """Complete the update; with `queues` repeat its submission while Temporal is unreachable."""
        while self.former is not None:
            await self.former.accepted.wait()
            self.former = self.former.former  # one that was cancelled while it waited still has its own former one
        while True:
            try:
                await self._until_complete()
            except DOWN as failed:
                if not queues or self.accepted.is_set() or not _is_unreachable(failed):
                    raise
                self.fault = unavailable(failed)
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return

    async def _until_complete(self) -> None:
        """Repeat the update while the run that accepted it ends, is starting, or is lost; raises UpdateRejected."""
        while True:
            try:
                running = await _accepted(self.submit)
                self.accepted.set()
                if await _completes(running):
                    return
            except WorkflowUpdateFailedError as refused:
                refusal = rejection(refused)
                if refusal.code not in {_ENDED_MEANWHILE, WorkflowStarting.code}:
                    raise refusal from None
            await asyncio.sleep(_REPEAT_SECONDS)


class Updates:
    """The updates that a process waits for.

    Temporal keeps an update without a worker only in memory, and only while a client asks for it. So a queued update
    continues in this process for an hour.
    """

    def __init__(self, patience_seconds: float, accept_seconds: float | None) -> None:
        """`patience_seconds` limits the wait for a result, `accept_seconds` the wait until a worker accepts.

        Only a process that keeps running sets `accept_seconds`: it queues an update that does not reach Temporal, like
        one without a worker. Without it, such an update fails.
        """
        self._patience_seconds = patience_seconds
        self._accept_seconds = patience_seconds if accept_seconds is None else min(accept_seconds, patience_seconds)
        self._queues_unreachable = accept_seconds is not None
        self._queued: set[asyncio.Task[None]] = set()
        self._newest: dict[str, _Request] = {}
        """The newest update of each workflow, until it has ended."""

    async def complete(self, workflow_id: str, submit: Submit) -> None:
        """Submit an update of a workflow and wait for its result.

        Updates of one workflow are submitted in the order of the calls, each when the former one is accepted or ended:
        after an outage the last of several queued requests decides, for example whether a tenant is locked.

        Raises:
            UpdateRejected: by its validator.
            OperationQueued: no worker has accepted it in time; with the fault of the connection, if that is the cause.
            OperationTimeout: it was accepted and continues.
            RPCError, RuntimeError: see `DOWN`.
        """
        request = _Request(submit, self._newest.get(workflow_id))
        self._newest[workflow_id] = request
        task = asyncio.ensure_future(request.run(queues=self._queues_unreachable))
        task.add_done_callback(partial(self._ended, workflow_id, request))
        signal = asyncio.ensure_future(request.accepted.wait())
        begun = asyncio.get_running_loop().time()
        try:
            await asyncio.wait({task, signal}, timeout=self._accept_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not request.accepted.is_set():
                self._continue(task)
                if request.fault is None:
                    raise OperationQueued
                raise OperationQueued(request.fault.message, request.fault.hint) from request.fault
            async with asyncio.timeout_at(begun + self._patience_seconds):
                await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise OperationTimeout from None
        finally:
            signal.cancel()

    def _ended(self, workflow_id: str, request: _Request, done: "asyncio.Task[None]") -> None:
        request.accepted.set()
        if self._newest.get(workflow_id) is request:
            if request.former is None:
                del self._newest[workflow_id]
            else:  # cancelled while it waited for the former one
                self._newest[workflow_id] = request.former
        _retrieve(done)

    def _continue(self, task: "asyncio.Task[None]") -> None:
        """Let a queued update continue without its caller; its result is stored by the workflow."""
        self._queued.add(task)
        end = asyncio.get_running_loop().call_later(_QUEUED_SECONDS, task.cancel)

        def ended(done: "asyncio.Task[None]") -> None:
            self._queued.discard(done)
            end.cancel()
            failed = None if done.cancelled() else done.exception()
            if done.cancelled() or failed is not None:
                code = failed.code if isinstance(failed, OpenKcmError) else type(failed).__name__
                log.warning("queued request not completed", code="cancelled" if failed is None else code)

        task.add_done_callback(ended)


async def _accepted(submit: Submit) -> WorkflowUpdateHandle[Any]:
    """Submit an update; raise the error of the connection, for which Temporal's client has one with two meanings.

    A connection that ends during the call is reported as cancelled, like a cancellation of this task.
    """
    try:
        return await submit()
    except WorkflowUpdateRPCTimeoutOrCancelledError as lost:
        if isinstance(lost.__cause__, RPCError):
            raise lost.__cause__ from None
        raise asyncio.CancelledError from None


async def _completes(running: WorkflowUpdateHandle[Any]) -> bool:
    """Wait for the result of an update; return False if the run that accepted it is lost."""
    try:
        await running.result()
    except RPCError as failed:
        if failed.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


def _is_unreachable(failed: RPCError | RuntimeError) -> bool:
    return not isinstance(failed, RPCError) or failed.status in _UNREACHABLE


def _retrieve(done: "asyncio.Task[None]") -> None:
    """Retrieve the exception of an update whose caller has left, so that asyncio does not log it as lost."""
    if not done.cancelled():
        done.exception()


def rejection(failed: WorkflowUpdateFailedError | WorkflowFailureError) -> CallerError:
    """Return the error of a validator or workflow; raises TemporalUnavailable if the failure is none of them."""
    cause = failed.cause
    if not isinstance(cause, ApplicationError):
        raise TemporalUnavailable
    message, _, hint = cause.message.partition("\n")
    return UpdateRejected(cause.type or "refused", message, hint)
