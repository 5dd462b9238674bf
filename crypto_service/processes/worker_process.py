"""A worker process: waits for the servers that it needs, listens on both ports, reports to its parent, and drains."""

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_network

import structlog
import uvloop

from config.settings import Settings
from core.errors.platform import SettingsInvalid
from crypto_service import wiring
from crypto_service.processes.supervisor import NOTICE
from crypto_service.server.connection import Connection
from crypto_service.server.hardening import allow_many_files, harden
from crypto_service.server.listener import TlsListener, listen
from crypto_service.server.metrics import Report
from crypto_service.server.realtime_scheduling import realtime_priority
from crypto_service.server.tls import SharedTlsIdentity
from crypto_service.wiring import Credentials, Service
from database.platform.processes import REPORT_SECONDS
from openkcm.errors import OpenKcmError, os_reason

_REPORT_SECONDS = 0.5
_SWITCH_SECONDS = 0.001
"""How long a thread (database, Vault) may hold the interpreter lock while the loop waits; Python's default is 5 ms."""

_COLLECT_SECONDS, _COLLECT_ALL_SECONDS = 10.0, 600.0
_NEW_OBJECTS = 200_000

log = structlog.get_logger()


class GarbageCollector:
    """Collects cyclic garbage at fixed times, instead of after numbers of new objects as Python does.

    Under load Python would examine the objects of all pending requests, 5 ms at a time and many times a second, while
    all tenants wait. There is little such garbage: almost everything is freed by its reference count.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = self._all_at = now()
        gc.collect()
        # Everything built so far lives as long as the process.
        gc.freeze()
        gc.disable()

    def run_if_due(self) -> None:
        """Collect new objects after ten seconds, or if there are many of them, and all objects after ten minutes."""
        now = self._now()
        if now - self._all_at >= _COLLECT_ALL_SECONDS:
            self._at = self._all_at = now
            gc.collect()
        elif now - self._at >= _COLLECT_SECONDS or gc.get_count()[0] > _NEW_OBJECTS:
            self._at = now
            gc.collect(1)


def serve(
    settings: Settings, credentials: Credentials, shared_identity: SharedTlsIdentity, reports: socket.socket
) -> None:
    """Serve until SIGTERM; the job of a child process."""
    harden()
    allow_many_files()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, credentials, shared_identity, reports))


async def _serve(
    settings: Settings, credentials: Credentials, shared_identity: SharedTlsIdentity, reports: socket.socket
) -> None:
    with realtime_priority(asyncio.get_running_loop()):
        await _serve_until_stopped(settings, credentials, shared_identity, reports)


async def _serve_until_stopped(
    settings: Settings, credentials: Credentials, shared_identity: SharedTlsIdentity, reports: socket.socket
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = wiring.build(settings, credentials, shared_identity)
    asyncio.get_running_loop().add_signal_handler(NOTICE, service.connections.end_after_responses)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {NOTICE})
    stopping = asyncio.create_task(stop.wait())
    running = asyncio.create_task(_run(settings, service, reports))
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    running.cancel()
    await asyncio.wait({running})
    service.key_server.stop()
    service.connections.stop()
    await service.changes.stop()
    service.threads.close()
    service.opening.close()
    service.computing.close()
    service.keyring.close()
    service.journal.close()
    await asyncio.to_thread(service.database.close)
    if service.tracer is not None:
        await asyncio.to_thread(service.tracer.close)
    if not running.cancelled():
        running.result()


async def _run(settings: Settings, service: Service, reports: socket.socket) -> None:
    """Listen once all dependencies are ready, serve until cancelled, then drain."""
    service.changes.start()
    tls = service.tls
    service.key_server.start()
    background = [asyncio.create_task(service.authorities.run()), asyncio.create_task(service.readiness.watch())]
    waiting = asyncio.create_task(_report_faults(service, reports))
    identity, _, _ = await asyncio.gather(tls.obtain(), service.changes.listening(), service.authorities.loaded())
    waiting.cancel()
    listeners = [
        _listen(settings, service, service.https.protocol, settings.crypto_https_port, ["http/1.1"]),
        _listen(settings, service, service.kmip.protocol, settings.crypto_kmip_port),
    ]
    loops = (tls.keep(identity), service.resealing.run(), service.heartbeats.run(), _report_process(service))
    background += [asyncio.create_task(one) for one in loops]
    garbage = GarbageCollector()
    log.info("serving", https=settings.crypto_https_port, kmip=settings.crypto_kmip_port)
    try:
        while True:
            service.journal.maintain()
            garbage.run_if_due()
            _send_report(reports, _report(service, listeners))
            await _next_report(service)
    finally:
        for task in background:
            task.cancel()
        for listener in listeners:
            listener.close()
        log.info("draining", connections=len(service.connections))
        _send_report(reports, _report(service, listeners, ready=False))
        await service.connections.drain(settings.shutdown_grace_seconds)
        await service.heartbeats.write()
        with suppress(OpenKcmError):
            await asyncio.to_thread(service.reporter.withdraw)
        _send_report(reports, _report(service, listeners, ready=False))


async def _next_report(service: Service) -> None:
    """Return when a report is due: a journal that begins to fail is reported at once, for the load balancer."""
    if service.journal.is_failing:
        await asyncio.sleep(_REPORT_SECONDS)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(service.journal.failure.wait(), _REPORT_SECONDS)


async def _report_process(service: Service) -> None:
    """Store what this process measures while it serves, for the status of tenants and of the platform."""
    while True:
        applied = service.changes.applied
        with suppress(OpenKcmError):  # without a report the process counts as silent
            await asyncio.to_thread(
                service.reporter.write, service.key_server.state, faults=service.readiness.faults, applied=applied
            )
        await asyncio.sleep(REPORT_SECONDS)


async def _report_faults(service: Service, reports: socket.socket) -> None:
    """Report why the process does not serve yet."""
    while True:
        _send_report(reports, Report(faults=service.readiness.faults))
        await asyncio.sleep(_REPORT_SECONDS)


def _listen(
    settings: Settings,
    service: Service,
    protocol: Callable[[], Connection],
    port: int,
    names: Sequence[str] = (),
) -> TlsListener:
    assert service.tls.identity is not None  # noqa: S101 - the caller obtained it before
    context = service.tls.context(service.tls.identity, names)
    proxies = [ip_network(network) for network in settings.crypto_proxy_networks]
    try:
        sockets = listen(settings.crypto_host, port)
    except OSError as taken:
        raise SettingsInvalid(
            f"port {port} of {settings.crypto_host} cannot be used: {os_reason(taken)}",
            "change crypto_host, crypto_https_port or crypto_kmip_port, or end the process that uses the port",
        ) from None
    return TlsListener(service.connections, protocol, context, sockets, proxies)


def _report(service: Service, listeners: Sequence[TlsListener], *, ready: bool = True) -> Report:
    connections = service.connections
    faults = service.readiness.faults
    report = Report(ready and not faults, faults)
    for (operation, refused), count in service.journal.operations.items():
        report.counters["openkcm_crypto_operations", (("operation", operation), ("refused", refused))] = count
    report.counters |= {
        ("openkcm_crypto_connections_opened", ()): connections.opened,
        ("openkcm_crypto_connections_refused", ()): connections.refused,
        ("openkcm_crypto_handshakes_failed", ()): sum(listener.refused for listener in listeners),
        ("openkcm_crypto_proxy_header_mismatches", ()): sum(one.proxy_mismatches for one in listeners),
        ("openkcm_crypto_rate_limited", ()): service.limits.refused,
        ("openkcm_crypto_wal_rejections", ()): service.journal.rejections,
        ("openkcm_crypto_reencrypted_objects", ()): service.resealing.totals.resealed,
        ("openkcm_crypto_reencryption_superseded", ()): service.resealing.totals.overtaken,
        ("openkcm_crypto_reencryption_failures", ()): service.resealing.totals.failed,
        ("openkcm_crypto_corrupt_objects", ()): service.resealing.totals.damaged,
        ("openkcm_crypto_heartbeats", ()): service.heartbeats.totals.taken,
        ("openkcm_crypto_heartbeats_lost", ()): service.heartbeats.totals.lost,
    }
    report.gauges["openkcm_crypto_connections", ()] = len(connections)
    report.gauges["openkcm_crypto_handshakes", ()] = sum(listener.handshakes for listener in listeners)
    if service.tls.identity is not None:
        not_after = service.tls.identity.not_after.timestamp()
        report.gauges["openkcm_crypto_certificate_not_after_seconds", ()] = not_after
    return report


def _send_report(reports: socket.socket, report: Report) -> None:
    # A busy parent gets the next report; totals make a lost report harmless.
    with suppress(OSError):
        reports.send(report.encode(), socket.MSG_DONTWAIT)
