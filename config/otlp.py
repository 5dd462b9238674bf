"""Export of spans over OTLP/HTTP by OpenTelemetry's SDK; only its batching and its exporter are used.

The queue is bounded, and a span that does not fit replaces the oldest one. A collector that is down or slow therefore
costs neither a request nor memory. No provider is registered, so that no library of the process exports anything, and
the resource is stated here: the SDK's detectors would export the command line and the environment.
"""

import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from requests import Session

from core.tracing.spans import Span, TraceContext

_DISTRIBUTION = "openkcm-tenant-controller"
_PATH = "/v1/traces"
_QUEUE, _BATCH = 2048, 512
_PAUSE_MILLISECONDS = 1000
_TIMEOUT_SECONDS = 2.0
_CLOSE_SECONDS = 3.0


class _Exporter(OTLPSpanExporter):
    """Prepares the thread of the SDK before its first export."""

    prepare: Callable[[], None] | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.prepare is not None:
            prepare, self.prepare = self.prepare, None
            prepare()
        return super().export(spans)


class OtlpExport:
    def __init__(
        self, endpoint: str, ca_file: Path | None, process: str, prepare_thread: Callable[[], None] | None = None
    ) -> None:
        """Start the thread that exports to the collector at `endpoint`; nothing is connected yet."""
        release = version(_DISTRIBUTION)
        self._resource = Resource({"service.name": f"openkcm-{process}", "service.version": release})
        self._scope = InstrumentationScope("openkcm", release)
        session = Session()
        session.trust_env = False  # no proxy and no .netrc of the environment
        exporter = _Exporter(
            f"{endpoint.rstrip('/')}{_PATH}",
            certificate_file=None if ca_file is None else str(ca_file),
            timeout=_TIMEOUT_SECONDS,
            session=session,
        )
        exporter.prepare = prepare_thread
        self._processor = BatchSpanProcessor(exporter, _QUEUE, _PAUSE_MILLISECONDS, _BATCH)

    def record(self, span: Span) -> None:
        """Queue a span."""
        parent = span.context._replace(span_id=span.parent_id) if span.parent_id else None
        failure: dict[str, str | int] = {"error.type": span.error} if span.error else {}
        self._processor.on_end(
            ReadableSpan(
                span.name,
                _span_context(span.context),
                None if parent is None else _span_context(parent),
                self._resource,
                span.attributes | failure,
                kind=SpanKind[span.kind],
                status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
                start_time=span.start,
                end_time=span.end,
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        """Export the last spans. A collector that is down delays the end of the process by three seconds at most."""
        closing = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote=False, trace_flags=TraceFlags(context.sampled)
    )
