"""The tracer of a process: which spans are recorded, and their identifiers. `otlp` exports them.

A trace is recorded by its id (`trace_ratio`), so that processes with the same ratio record the same traces. A client
chooses the id of its trace, and could choose one that is recorded. Therefore its sampled flag has no effect, and each
process begins at most `_NEW_PER_SECOND` recorded traces a second: a client that sends more cannot cost more.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from config.settings import Settings
from core.tracing.spans import CurrentSpan, Span, TraceContext, Tracer, current, error_of

_NEW_PER_SECOND = 100
_RANDOM_BITS = 56
"""The bits of a trace id that are random (W3C Trace Context Level 2, section 4.2)."""


def open_tracer(settings: Settings, process: str, prepare_thread: Callable[[], None] | None = None) -> Tracer | None:
    """Return the tracer of this process, which exports from a thread; None without `otlp_endpoint`.

    A process that forks MUST call this in the child. `prepare_thread` is called first in the thread that exports.
    """
    if settings.otlp_endpoint is None:
        return None
    # The SDK is loaded only here: a process without tracing has neither its code nor its threads.
    from config.otlp import OtlpExport  # noqa: PLC0415 - the reason above

    export = OtlpExport(settings.otlp_endpoint, settings.otlp_ca_file, process, prepare_thread)
    return SamplingTracer(export.record, export.close, settings.trace_ratio)


class SamplingTracer:
    """`core.tracing.spans.Tracer`."""

    def __init__(
        self,
        record: Callable[[Span], None],
        close: Callable[[], None],
        ratio: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self.close = close
        self._limit = int(ratio * 2**_RANDOM_BITS)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._left, self._filled_at = float(_NEW_PER_SECOND), monotonic()

    @contextmanager
    def span(self, name: str, kind: str, parent: TraceContext | None, *, inherits: bool = True) -> Iterator[Span]:
        trace_id = secrets.token_hex(16) if parent is None else parent.trace_id
        sampled = parent.sampled if parent is not None and inherits else self._samples(trace_id)
        context = TraceContext(trace_id, secrets.token_hex(8), sampled)
        span = Span(name, kind, context, "" if parent is None else parent.span_id, time.time_ns())
        token = current.set(CurrentSpan(span, self))
        try:
            yield span
        except BaseException as failed:
            span.error = error_of(failed)
            raise
        finally:
            current.reset(token)
            span.end = time.time_ns()
            self.record(span)

    def record(self, span: Span) -> None:
        if span.context.sampled:
            self._record(span)

    def _samples(self, trace_id: str) -> bool:
        if int(trace_id, 16) % 2**_RANDOM_BITS >= self._limit:
            return False
        with self._lock:
            now = self._monotonic()
            self._left = min(self._left + (now - self._filled_at) * _NEW_PER_SECOND, float(_NEW_PER_SECOND))
            self._filled_at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True
