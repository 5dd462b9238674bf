"""Trace contexts (W3C Trace Context) and spans, without a library.

A span contains what the code states: a name, ids, an outcome. It has no field for the text of an exception, for a
header or for a body, so none of them can reach the trace store.

Processes without tracing have no `Tracer`, and `current` is always None.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, Protocol

from openkcm.errors import OpenKcmError

_HEADER = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])")
_CANCELLED = ("CancelledError", "GeneratorExit")


class TraceContext(NamedTuple):
    """The ids of a trace and of a span in it, as lower-case hex, and whether the trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def header(self) -> str:
        """The value of a traceparent (section 3.2)."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"

    def child(self, key: str) -> "TraceContext":
        """Return the context of the only span for `key`, the same in each replay of a workflow."""
        return self._replace(span_id=sha256(f"{self.span_id}/{key}".encode()).hexdigest()[:16])


def parse(header: str | bytes | None) -> TraceContext | None:
    """Return the context of a traceparent; None when it is absent or malformed, and the request then has no parent.

    Other versions are read as version 00 (section 4.1), but nothing may follow the flags. tracestate and baggage are
    never read or passed on: their content is the sender's.
    """
    try:
        text = header.decode("ascii") if isinstance(header, bytes) else header or ""
    except UnicodeDecodeError:
        return None
    match = _HEADER.fullmatch(text)
    return TraceContext(match[1], match[2], sampled=bool(int(match[3], 16) & 1)) if match else None


@dataclass(slots=True)
class Span:
    """A unit of work; times in nanoseconds since 1970. `error` is the code of what failed, never its text."""

    name: str
    kind: str
    context: TraceContext
    parent_id: str
    start: int
    end: int = 0
    error: str = ""
    attributes: dict[str, str | int] = field(default_factory=dict)


class Tracer(Protocol):
    """Records spans; safe for threads. No method waits for the trace store or raises because of it."""

    def span(
        self, name: str, kind: str, parent: TraceContext | None, *, inherits: bool = True
    ) -> AbstractContextManager[Span]:
        """Record the block as a span, which is `current` in it; an error that leaves the block sets its code.

        `parent` None begins a trace. With `inherits` the parent decides whether the span is recorded. A parent that a
        client sent MUST NOT decide that.
        """

    def record(self, span: Span) -> None:
        """Record a complete span."""

    def close(self) -> None:
        """Export the last spans, for a few seconds at most."""


class CurrentSpan(NamedTuple):
    span: Span
    tracer: Tracer


current: ContextVar[CurrentSpan | None] = ContextVar("current_span", default=None)
"""The span of the running request or activity; a new task and an executor with a copied context inherit it."""


def outgoing() -> str:
    """Return the traceparent for a request from here; empty without a trace."""
    found = current.get()
    return "" if found is None else found.span.context.header


def note_error(code: str) -> None:
    """Set the code of the current span, if there is one, for an error that becomes a response."""
    found = current.get()
    if found is not None:
        found.span.error = code


@contextmanager
def child_span(name: str) -> Iterator[None]:
    """Record the block as a part of the current span, if there is one."""
    found = current.get()
    with nullcontext() if found is None else found.tracer.span(name, INTERNAL, found.span.context):
        yield


INTERNAL, SERVER, CLIENT = "INTERNAL", "SERVER", "CLIENT"
"""Kinds of spans; the names of OpenTelemetry."""


def error_of(failed: BaseException) -> str:
    """Return the code of an error of OpenKCM, and of any other error the name of its class."""
    if isinstance(failed, OpenKcmError):
        return failed.code
    name = type(failed).__name__
    return "cancelled" if name in _CANCELLED else name
