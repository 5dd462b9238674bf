"""Metrics of all processes of the service on one page in Prometheus text format, and its HTTP server.

Each child reports totals since its start. The parent sums them and keeps the totals of children that ended, so that no
counter ever decreases. Counters are exported as 0 from the start, before any child reported: `increase()` misses the
first incident of a counter that appears with it. No metric contains a tenant: usage per tenant is in the usage rows,
which row-level security protects.

The HTTP server is minimal: GET of one short page, one request per connection, loopback only.
"""

import json
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.services import CryptoOperation

if TYPE_CHECKING:
    from prometheus_client import Metric


Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]

COUNTERS = {
    "openkcm_crypto_operations": "uses and refusals written to the audit journal",
    "openkcm_crypto_connections_opened": "connections whose TLS handshake succeeded",
    "openkcm_crypto_connections_refused": "connections closed for their certificate or at a limit",
    "openkcm_crypto_handshakes_failed": "TLS handshakes that failed, took too long or were ended at the limit",
    "openkcm_crypto_proxy_header_mismatches": "connections refused because a PROXY header is missing or not expected",
    "openkcm_crypto_rate_limited": "requests over a tenant's rate or concurrency limit",
    "openkcm_crypto_wal_rejections": "requests rejected because too many audit records wait or the disk is almost full",
    "openkcm_crypto_audit_shipped_records": "journal lines delivered to the audit streams",
    "openkcm_crypto_audit_dead_letter_records": "journal lines that the database rejected, kept in undeliverable.jsonl",
    "openkcm_crypto_wal_corrupt_records": "journal lines whose checksum does not match",
    "openkcm_crypto_reencrypted_objects": "managed objects re-encrypted under the active version of their service key",
    "openkcm_crypto_reencryption_superseded": "managed objects that another request changed before their re-encryption",
    "openkcm_crypto_reencryption_failures": "failed attempts to re-encrypt a tenant's objects; each is retried",
    "openkcm_crypto_corrupt_objects": "managed objects that do not decrypt",
    "openkcm_crypto_heartbeats": "heartbeats received from agents and services",
    "openkcm_crypto_heartbeats_lost": "services whose heartbeats the database rejected",
    "openkcm_crypto_restarts": "processes that ended unexpectedly",
}
SUMS = {
    "openkcm_crypto_ready": "processes that serve HTTPS and KMIP",
    "openkcm_crypto_connections": "open connections",
    "openkcm_crypto_handshakes": "connections whose TLS handshake has not ended",
    "openkcm_crypto_wal_pending_bytes": "bytes of the audit journal not yet in the audit streams",
    "openkcm_crypto_wal_capacity_bytes": "bytes that the audit journal may have, by its limit and the room on its disk",
    "openkcm_crypto_audit_shipping_failing_seconds": "seconds for which no audit records have been shipped",
}
LEAST = {"openkcm_crypto_certificate_not_after_seconds": "earliest expiry of the service's certificates, Unix time"}

_OPERATIONS = "openkcm_crypto_operations"
_ZEROS: Samples = {(name, ()): 0.0 for name in COUNTERS if name != _OPERATIONS} | {
    (_OPERATIONS, (("operation", operation.value), ("refused", ""))): 0.0 for operation in CryptoOperation
}
"""Values exported before anything is counted. A series of rejections appears with the first rejection of its code."""


@dataclass(slots=True)
class Report:
    """A report from a child to its parent, twice a second."""

    ready: bool = False
    faults: Sequence[str] = ()
    """Why a child that listens should receive no requests."""
    counters: Samples = field(default_factory=dict)
    gauges: Samples = field(default_factory=dict)

    def encode(self) -> bytes:
        samples = [[[*key, value] for key, value in kind.items()] for kind in (self.counters, self.gauges)]
        return json.dumps([self.ready, self.faults, *samples]).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Report":
        ready, faults, *kinds = json.loads(data)
        counters, gauges = ({(name, _labels(labels)): value for name, labels, value in kind} for kind in kinds)
        return cls(ready, faults, counters, gauges)


class Totals:
    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._ended: Counter[tuple[str, Labels]] = Counter()

    @property
    def ready(self) -> int:
        """The number of children that serve."""
        return sum(report.ready for report in self._reports.values())

    @property
    def faults(self) -> Sequence[str]:
        """The faults of all children: connections reach each of them."""
        return sorted({fault for report in self._reports.values() for fault in report.faults})

    def take(self, child: str, report: Report) -> None:
        self._reports[child] = report

    def ended(self, child: str, *, expected: bool) -> None:
        """Keep the counters of a child that ended."""
        report = self._reports.pop(child, Report())
        for key, value in report.counters.items():
            self._ended[key] += value  # type: ignore[assignment]  # a Counter of floats is valid at run time
        if not expected:
            self._ended["openkcm_crypto_restarts", ()] += 1

    def text(self) -> bytes:
        """Return the page in Prometheus's text format."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - not needed for a restart

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator["Metric"]:
        """Yield all metrics to prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - as in `text`

        counters: Samples = {**_ZEROS, **self._ended}
        gauges: dict[tuple[str, Labels], list[float]] = {("openkcm_crypto_ready", ()): [self.ready]}
        for report in self._reports.values():
            for key, value in report.counters.items():
                counters[key] = counters.get(key, 0.0) + value
            for key, value in report.gauges.items():
                gauges.setdefault(key, []).append(value)
        yield from _families(CounterMetricFamily, COUNTERS, counters)
        yield from _families(GaugeMetricFamily, SUMS, {key: sum(values) for key, values in gauges.items()})
        yield from _families(GaugeMetricFamily, LEAST, {key: min(values) for key, values in gauges.items()})


def _families(kind: Any, table: Mapping[str, str], samples: Mapping[tuple[str, Labels], float]) -> Iterator["Metric"]:
    for name, meaning in table.items():
        labels = next((tuple(label for label, _ in labels) for at, labels in samples if at == name), ())
        family = kind(name, meaning, labels=labels)
        for (at, values), value in samples.items():
            if at == name:
                family.add_metric([text for _, text in values], value)
        yield family


def _labels(pairs: list[list[str]]) -> Labels:
    return tuple((name, value) for name, value in pairs)


_CONNECTION_SECONDS = 2.0
_MAX_CONNECTIONS = 64
_MAX_REQUEST_BYTES = 8192
_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class MetricsHttpServer:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        address: tuple[str, int],
        answer: Callable[[bytes], tuple[int, bytes]],
    ) -> None:
        """`answer` maps a path to status and text; raise OSError when the address is in use."""
        self._selector = selector
        self._answer = answer
        self._open: dict[socket.socket, tuple[float, bytearray]] = {}
        self._listener = socket.create_server(address, backlog=_MAX_CONNECTIONS)
        self._listener.settimeout(0)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def drop_late(self) -> None:
        """Close the connections that exceeded their time limit."""
        now = time.monotonic()
        for connection in [one for one, (began, _) in self._open.items() if now - began > _CONNECTION_SECONDS]:
            self._drop(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            connection.settimeout(0)
            if len(self._open) >= _MAX_CONNECTIONS:
                connection.close()
                return
            self._open[connection] = (time.monotonic(), bytearray())
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        received = self._open[connection][1]
        try:
            data = connection.recv(_MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        received += data
        if b"\r\n\r\n" in received:
            method, _, rest = bytes(received).partition(b" ")
            status, text = self._answer(rest.split(b" ", 1)[0]) if method == b"GET" else (404, b"only GET\n")
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            head += f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            # A page has a few kilobytes, which fit into the socket's buffer.
            with suppress(OSError):
                connection.sendall(head.encode() + text)
            self._drop(connection)
        elif not data or len(received) > _MAX_REQUEST_BYTES:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()
