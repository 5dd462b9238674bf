"""Numbers of all processes of the service as one page of Prometheus text.

Each child reports its totals since its start; the parent adds them up and keeps what a child that ended had counted,
so that no counter ever falls. Counters are exported with 0 from the start, also before a child reported: `increase()`
misses the first incident of one that appears with it. No metric names a tenant: who did how much is in the usage rows,
behind row security.

A few bytes of HTTP for the parent's loop: GET of a short page, one request a connection, loopback only.
"""

import json
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
    "openkcm_crypto_limited": "requests over a tenant's rate or concurrency limit",
    "openkcm_crypto_delivered_lines": "journal lines delivered to the audit streams",
    "openkcm_crypto_set_aside_lines": "journal lines that the database rejected, kept in undeliverable.jsonl",
    "openkcm_crypto_damaged_lines": "journal lines whose checksum does not match",
    "openkcm_crypto_resealed_objects": "managed objects re-encrypted under the active version of their service key",
    "openkcm_crypto_resealing_overtaken": "managed objects that another request changed before their re-encryption",
    "openkcm_crypto_resealing_failed": "failed attempts to re-encrypt a tenant's objects; each is retried",
    "openkcm_crypto_damaged_objects": "managed objects that do not decrypt",
    "openkcm_crypto_heartbeats": "heartbeats received from agents and services",
    "openkcm_crypto_heartbeats_lost": "services whose heartbeats the database rejected",
    "openkcm_crypto_restarts": "processes that ended unexpectedly",
}
SUMS = {
    "openkcm_crypto_ready": "processes that serve HTTPS and KMIP",
    "openkcm_crypto_connections": "open connections",
    "openkcm_crypto_journal_waiting_bytes": "bytes of the audit journal not yet in the audit streams",
    "openkcm_crypto_delivery_failing_seconds": "seconds for which the database has accepted no audit records",
}
LEAST = {"openkcm_crypto_certificate_not_after_seconds": "earliest expiry of the service's certificates, Unix time"}

_OPERATIONS = "openkcm_crypto_operations"
_ZEROS: Samples = {(name, ()): 0.0 for name in COUNTERS if name != _OPERATIONS} | {
    (_OPERATIONS, (("operation", operation.value), ("refused", ""))): 0.0 for operation in CryptoOperation
}
"""What is exported before anything is counted. Series of refusals appear with the first of their code."""


@dataclass(slots=True)
class Report:
    """What a child tells its parent, twice a second."""

    ready: bool = False
    counters: Samples = field(default_factory=dict)
    gauges: Samples = field(default_factory=dict)

    def encode(self) -> bytes:
        samples = [[[*key, value] for key, value in kind.items()] for kind in (self.counters, self.gauges)]
        return json.dumps([self.ready, *samples]).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Report":
        ready, *kinds = json.loads(data)
        counters, gauges = ({(name, _labels(labels)): value for name, labels, value in kind} for kind in kinds)
        return cls(ready, counters, gauges)


class Totals:
    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._ended: Counter[tuple[str, Labels]] = Counter()

    @property
    def ready(self) -> int:
        """How many children serve."""
        return sum(report.ready for report in self._reports.values())

    def take(self, child: str, report: Report) -> None:
        self._reports[child] = report

    def ended(self, child: str, *, expected: bool) -> None:
        """Keep what a child that is gone had counted."""
        report = self._reports.pop(child, Report())
        for key, value in report.counters.items():
            self._ended[key] += value  # type: ignore[assignment]  # a Counter of floats adds up just as well
        if not expected:
            self._ended["openkcm_crypto_restarts", ()] += 1

    def text(self) -> bytes:
        """Return the page in Prometheus's text format."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - a restart need not wait for it

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator["Metric"]:
        """Give prometheus_client everything there is."""
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


_PATIENCE_SECONDS = 2.0
_MOST_AT_ONCE = 64
_LONGEST_REQUEST = 8192
_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class MetricsHttpServer:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        address: tuple[str, int],
        answer: Callable[[bytes], tuple[int, bytes]],
    ) -> None:
        """`answer` is given a path and returns status and text; raises OSError when the address is taken."""
        self._selector = selector
        self._answer = answer
        self._open: dict[socket.socket, tuple[float, bytearray]] = {}
        self._listener = socket.create_server(address, backlog=_MOST_AT_ONCE)
        self._listener.settimeout(0)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def drop_late(self) -> None:
        """Close the connections that have used up their time."""
        now = time.monotonic()
        for connection in [one for one, (began, _) in self._open.items() if now - began > _PATIENCE_SECONDS]:
            self._drop(connection)

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            connection.settimeout(0)
            if len(self._open) >= _MOST_AT_ONCE:
                connection.close()
                return
            self._open[connection] = (time.monotonic(), bytearray())
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        received = self._open[connection][1]
        try:
            data = connection.recv(_LONGEST_REQUEST)
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
            # A page is a few kilobytes, which the socket's buffer takes whole.
            with suppress(OSError):
                connection.sendall(head.encode() + text)
            self._drop(connection)
        elif not data or len(received) > _LONGEST_REQUEST:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._open[connection]
        self._selector.unregister(connection)
        connection.close()
