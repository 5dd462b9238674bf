"""A real OTLP/HTTP receiver on loopback, and spans in memory."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ExportedSpan

from config.tracing import SamplingTracer
from core.tracing.spans import Span


@dataclass(frozen=True)
class Received:
    process: str
    span: ExportedSpan

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        found = self.span.attributes
        return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in found}


class Collector:
    """Decodes each request and keeps its bytes. `hold` lets requests wait, as a collector that hangs."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.hold = threading.Event()
        self.hold.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.hold.wait(60)
                assert self.path == "/v1/traces"
                collector.headers.append(dict(self.headers))
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Received]:
        found = []
        for body in list(self.bodies):
            for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
                [name] = [one.value.string_value for one in of_process.resource.attributes if one.key == "service.name"]
                found += [Received(name, span) for scope in of_process.scope_spans for span in scope.spans]
        return found

    def of(self, trace_id: str) -> list[Received]:
        return [one for one in self.spans if one.trace_id == trace_id]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


def tracer_into(spans: list[Span], ratio: float = 1.0) -> SamplingTracer:
    """Return a tracer that keeps its spans in a list."""
    return SamplingTracer(spans.append, lambda: None, ratio)
