"""Traces through Temporal: a header with the traceparent, and spans of calls, operations, updates and activities.

OpenTelemetry's interceptor of the SDK (`temporalio.contrib`) is not used. It records the texts of exceptions, passes on
the sender's baggage, and assigns every later operation of a tenant to the trace that started the tenant's workflow.

Replay is unaffected: headers are no part of a command's identity, nothing here uses the workflow's randomness, and the
id of a span is derived from the run. A span is recorded once, when its run or update ends outside of a replay.

The header is not encrypted: it contains random ids only. A malformed one is ignored, and blocks no workflow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

from temporalio import activity, client, worker, workflow
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadConverter
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from core.tracing.spans import CLIENT, INTERNAL, SERVER, Span, TraceContext, Tracer, current, parse
    from workflows.runtime.failures import code_of

Result = TypeVar("Result")
Headers = Mapping[str, Payload]

HEADER = "traceparent"
_RECORD = "openkcm_record_span"
_LONGEST = 64
"""Bytes of the header with the quotes of JSON; more is ignored."""
_NANOSECONDS = 1_000_000_000

_handler: ContextVar[TraceContext | None] = ContextVar("handler_trace")
"""The context of the signal or update that the running task handles; not set in the main loop."""

ENTITIES = frozenset({"Tenant", "ConnectService"})
"""Workflows without an end. They have no span. Their main loop belongs to the trace of the newest signal."""


def _with_context(headers: Headers, context: TraceContext | None) -> Headers:
    if context is None:
        return headers
    return {**headers, HEADER: PayloadConverter.default.to_payload(context.header)}


def _context_in(headers: Headers) -> TraceContext | None:
    payload = headers.get(HEADER)
    return None if payload is None or len(payload.data) > _LONGEST else parse(payload.data.strip(b'"'))


class TraceInterceptor(client.Interceptor, worker.Interceptor):
    """Spans of the calls of a client, or of the workflows and activities of a worker."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:  # noqa: A002 - the SDK's name
        """Record each call; it begins a trace where no span is current."""
        return _TracedClient(next, self._tracer)

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Record each activity that belongs to a trace."""
        return _TracedActivity(next, self._tracer)

    def workflow_interceptor_class(
        self,
        input: worker.WorkflowInterceptorClassInput,  # noqa: A002 - the SDK's name
    ) -> type[worker.WorkflowInboundInterceptor]:
        """Record the workflows that belong to a trace."""
        input.unsafe_extern_functions[_RECORD] = self._tracer.record
        return _TracedWorkflow


class _TracedClient(client.OutboundInterceptor):
    def __init__(self, following: client.OutboundInterceptor, tracer: Tracer) -> None:
        super().__init__(following)
        self._tracer = tracer

    async def start_workflow(self, input: client.StartWorkflowInput) -> client.WorkflowHandle[Any, Any]:  # noqa: A002 - the SDK's name
        return await self._call(f"start {input.workflow}", input.id, input, super().start_workflow)

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:  # noqa: A002 - the SDK's name
        await self._call(f"signal {input.signal}", input.id, input, super().signal_workflow)

    async def start_workflow_update(
        self,
        input: client.StartWorkflowUpdateInput,  # noqa: A002 - the SDK's name
    ) -> client.WorkflowUpdateHandle[Any]:
        return await self._call(f"request {input.update}", input.id, input, super().start_workflow_update)

    async def start_update_with_start_workflow(
        self,
        input: client.StartWorkflowUpdateWithStartInput,  # noqa: A002 - the SDK's name
    ) -> client.WorkflowUpdateHandle[Any]:
        update, start = input.update_workflow_input, input.start_workflow_input

        async def call(_start: client.UpdateWithStartStartWorkflowInput) -> client.WorkflowUpdateHandle[Any]:
            update.headers = {**update.headers, **start.headers}
            return await super(_TracedClient, self).start_update_with_start_workflow(input)

        return await self._call(f"request {update.update}", start.id, start, call)

    async def _call(
        self, name: str, workflow_id: str, message: Any, call: Callable[[Any], Awaitable[Result]]
    ) -> Result:
        outer = current.get()
        with self._tracer.span(name, CLIENT, None if outer is None else outer.span.context) as span:
            span.attributes["openkcm.workflow_id"] = workflow_id
            message.headers = _with_context(message.headers, span.context)
            return await call(message)


class _TracedActivity(worker.ActivityInboundInterceptor):
    def __init__(self, following: worker.ActivityInboundInterceptor, tracer: Tracer) -> None:
        super().__init__(following)
        self._tracer = tracer

    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        parent = _context_in(input.headers)
        if parent is None:
            return await super().execute_activity(input)
        info = activity.info()
        with self._tracer.span(f"activity {info.activity_type}", SERVER, parent) as span:
            span.attributes |= {"openkcm.workflow_id": info.workflow_id or "", "openkcm.attempt": info.attempt}
            return await super().execute_activity(input)


class _TracedWorkflow(worker.WorkflowInboundInterceptor):
    def __init__(self, following: worker.WorkflowInboundInterceptor) -> None:
        super().__init__(following)
        self._main: TraceContext | None = None

    @property
    def context(self) -> TraceContext | None:
        """The context for calls of the running code: of its handler, else of the main loop."""
        return _handler.get(self._main)

    def init(self, outbound: worker.WorkflowOutboundInterceptor) -> None:
        super().init(_TracedCalls(outbound, self))

    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:  # noqa: A002 - the SDK's name
        info, parent = workflow.info(), _context_in(input.headers)
        if parent is None or info.workflow_type in ENTITIES:
            self._main = self._main or parent
            return await super().execute_workflow(input)
        self._main = parent.child(info.run_id)
        began = int(info.start_time.timestamp() * _NANOSECONDS)
        span = Span(f"workflow {info.workflow_type}", INTERNAL, self._main, parent.span_id, began)
        return await _recorded(span, super().execute_workflow(input))

    async def handle_signal(self, input: worker.HandleSignalInput) -> None:  # noqa: A002 - the SDK's name
        context = _context_in(input.headers)
        if workflow.info().workflow_type in ENTITIES:
            self._main = context
        _handler.set(context)
        await super().handle_signal(input)

    async def handle_update_handler(self, input: worker.HandleUpdateInput) -> Any:  # noqa: A002 - the SDK's name
        parent = _context_in(input.headers)
        if parent is None:
            _handler.set(None)
            return await super().handle_update_handler(input)
        context = parent.child(f"{workflow.info().run_id}/{input.id}")
        _handler.set(context)
        span = Span(f"update {input.update}", SERVER, context, parent.span_id, workflow.time_ns())
        return await _recorded(span, super().handle_update_handler(input))


async def _recorded(span: Span, running: Awaitable[Result]) -> Result:
    """Record the span when a run or an update ends; not when a worker drops it, because another one continues it."""
    try:
        result = await running
    except (FailureError, asyncio.CancelledError) as failed:
        code = failed.type if isinstance(failed, ApplicationError) else None
        _record(span, code or code_of(failed))
        raise
    except workflow.ContinueAsNewError:
        _record(span)
        raise
    _record(span)
    return result


def _record(span: Span, error: str = "") -> None:
    if workflow.unsafe.is_replaying():
        return
    info = workflow.info()
    span.error, span.end = error, workflow.time_ns()
    span.attributes["openkcm.workflow_id"] = info.workflow_id
    workflow.extern_functions()[_RECORD](span)


class _TracedCalls(worker.WorkflowOutboundInterceptor):
    def __init__(self, following: worker.WorkflowOutboundInterceptor, traced: _TracedWorkflow) -> None:
        super().__init__(following)
        self._traced = traced

    def start_activity(self, input: worker.StartActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002 - the SDK's name
        return super().start_activity(self._with_context(input))

    def start_local_activity(self, input: worker.StartLocalActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002 - the SDK's name
        return super().start_local_activity(self._with_context(input))

    async def start_child_workflow(
        self,
        input: worker.StartChildWorkflowInput,  # noqa: A002 - the SDK's name
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        return await super().start_child_workflow(self._with_context(input))

    async def signal_child_workflow(self, input: worker.SignalChildWorkflowInput) -> None:  # noqa: A002 - the SDK's name
        await super().signal_child_workflow(self._with_context(input))

    async def signal_external_workflow(self, input: worker.SignalExternalWorkflowInput) -> None:  # noqa: A002 - the SDK's name
        await super().signal_external_workflow(self._with_context(input))

    def continue_as_new(self, input: worker.ContinueAsNewInput) -> NoReturn:  # noqa: A002 - the SDK's name
        """Continue the trace of an operation; the next run of an entity waits for the next signal."""
        if workflow.info().workflow_type not in ENTITIES:
            self._with_context(input)
        super().continue_as_new(input)

    def _with_context(self, call: Any) -> Any:
        call.headers = _with_context(call.headers, self._traced.context)
        return call
