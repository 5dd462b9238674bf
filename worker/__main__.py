"""`python -m worker`: read settings, build the worker, run it until a signal, drain it.

One Prometheus endpoint serves Temporal's and OpenKCM's metrics.
"""

import asyncio
import atexit
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

import structlog
from temporalio.client import Client
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode

from config.settings import Settings, load_settings
from core.errors.platform import ReleaseOutdated, SettingsInvalid
from database.connection.database import Database
from openkcm.errors import OpenKcmError
from openkcm.logging import configure_logs
from worker import bootstrap, wiring
from worker.payload_codec import PayloadKeyCache
from worker.reports import report_health
from worker.task_queues import run_workers
from worker.versioning import keep_current
from workflows.client.connection import LogForm, connection, core_logging, unavailable
from workflows.client.workflow_client import WorkflowClient

_RETRY_SECONDS = 0.5
_STOP_MARGIN_SECONDS = 5.0
"""How long activities may take to notice that they are cancelled, after `shutdown_grace_seconds`."""
_RESTORE_SECONDS = 60.0
"""The time between two checks for lost workflows of the platform, as long as that between those for tenants'."""
_READINESS_SECONDS = 5.0
"""The time between two checks of the database for the readiness."""
_RENEWAL_SECONDS = 6 * 3600.0
"""The time between two checks for data keys under an older version of their payload key, which lives for 90 days."""

# A Temporal that has just started answers before it has its namespace.
_NOT_READY = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED})

Done = TypeVar("Done")

log = structlog.get_logger()


async def run(settings: Settings, parts: wiring.WorkerDependencies, runtime: Runtime) -> None:
    """Run the worker until SIGTERM or SIGINT; running activities then get `shutdown_grace_seconds` to end.

    A worker that does not stop some seconds later is ended: Temporal repeats what it did on another one.

    Raises:
        ReleaseOutdated: the worker has drained, because its release cannot do what it would take from newer ones.
    """
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, _stop, stop, settings.shutdown_grace_seconds)
    starting = asyncio.create_task(_start(settings, parts, runtime))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        starting.cancel()
        return
    client = starting.result()
    async with run_workers(wiring.workers(client, parts), parts.stopping):
        watching = asyncio.create_task(report_health(client, parts.database, parts.vault, parts.watches))
        restoring = asyncio.create_task(_keep_platform_workflows(client, settings.regions, settings.root_key_shards))
        gateway = await WorkflowClient.connect(
            settings.temporal_address, settings.provisioning_slo_seconds, settings.log_format
        )
        build_id = settings.worker_build_id
        versioning = asyncio.create_task(keep_current(client, build_id)) if build_id else None
        renewing = asyncio.create_task(_renew_data_keys(parts.keyring))
        database, region = parts.database, settings.regions[0]
        canary = asyncio.create_task(_until_done("canary", lambda: bootstrap.ensure_canary(database, gateway, region)))
        reporting = asyncio.create_task(_report_readiness(runtime, database, canary))
        mirror: asyncio.Task[None] | None = None
        await asyncio.wait({canary, stopping, reporting}, return_when=asyncio.FIRST_COMPLETED)
        if not canary.cancel():
            canary.result()
            log.info("worker ready", regions=list(settings.regions))
            report_ready(runtime)
            mirror = asyncio.create_task(
                _until_done("mirror", lambda: bootstrap.ensure_mirror(database, gateway, region))
            )
        await asyncio.wait({stopping, reporting}, return_when=asyncio.FIRST_COMPLETED)
        _stop(stop, settings.shutdown_grace_seconds)
        restoring.cancel()
        watching.cancel()
        renewing.cancel()
        reporting.cancel()
        for task in (mirror, versioning):
            if task is not None:
                task.cancel()
        # Already here, because a stop that hangs is abandoned without a further message.
        log.info("worker draining", **_reason(reporting))
    # It withdraws its report before the database is closed.
    await asyncio.wait({watching})
    parts.database.close()
    if parts.tracer is not None:
        await asyncio.to_thread(parts.tracer.close)
    if not reporting.cancelled():
        reporting.result()


def _reason(reporting: asyncio.Task[None]) -> dict[str, str]:
    """Return the code of the error that stops the worker; nothing if a signal stops it."""
    failure = reporting.exception() if reporting.done() and not reporting.cancelled() else None
    return {"code": failure.code} if isinstance(failure, OpenKcmError) else {}


def _stop(stop: asyncio.Event, grace_seconds: float) -> None:
    if not stop.is_set():
        stop.set()
        limit = threading.Timer(grace_seconds + _STOP_MARGIN_SECONDS, _abandon)
        limit.daemon = True
        limit.start()


def _abandon() -> None:
    """End a worker whose shutdown hangs, for example because Temporal does not respond."""
    log.error("worker did not stop in time")
    os._exit(1)


async def _start(settings: Settings, parts: wiring.WorkerDependencies, runtime: Runtime) -> Client:
    await _until_done("database", lambda: asyncio.to_thread(parts.database.require_ready))
    await _until_done("payload key", lambda: asyncio.to_thread(parts.keyring.open_platform_key))
    await _until_done(
        "root keys", lambda: asyncio.to_thread(bootstrap.ensure_root_keys, parts.root_keys, settings.regions)
    )
    await _until_done("audit keys", lambda: asyncio.to_thread(bootstrap.record_audit_keys, parts.signer, parts.queries))
    return await _until_done("temporal", lambda: _connect(settings, parts, runtime))


async def _connect(settings: Settings, parts: wiring.WorkerDependencies, runtime: Runtime) -> Client:
    try:
        client = await Client.connect(
            **connection(settings.temporal_address), data_converter=parts.converter, runtime=runtime
        )
        await bootstrap.declare_search_attributes(client)
        await bootstrap.declare_schedules(client)
        await bootstrap.recover_workflows(client)
        await bootstrap.ensure_watches(client, settings.regions, settings.root_key_shards)
    except (RuntimeError, OSError) as down:
        raise unavailable(down) from down
    except RPCError as refused:
        if refused.status not in _NOT_READY:
            raise
        raise unavailable(refused) from refused
    return client


async def _keep_platform_workflows(client: Client, regions: Sequence[str], shards: int) -> None:
    while True:
        await asyncio.sleep(_RESTORE_SECONDS)
        try:
            await bootstrap.restore_platform_workflows(client, regions, shards)
        except (RPCError, RuntimeError, OSError) as down:
            log.warning("workflows of the platform not checked", error=type(down).__name__)


async def _report_readiness(runtime: Runtime, database: Database, canary: asyncio.Task[None]) -> None:
    """Export readiness once the canary is active: without the database, no tenant can be provisioned.

    Raises ReleaseOutdated, which no retry of this process cures; the other errors may end.
    """
    while True:
        try:
            await asyncio.to_thread(database.require_ready)
            if canary.done():
                report_ready(runtime)
        except ReleaseOutdated as outdated:
            _set_ready(runtime, 0)
            log.error("worker ends", code=outdated.code, message=outdated.message, hint=outdated.hint)  # noqa: TRY400 - expected, the trace says nothing
            raise
        except OpenKcmError as failed:
            _set_ready(runtime, 0)
            log.warning("worker not ready", code=failed.code, message=failed.message)
        await asyncio.sleep(_READINESS_SECONDS)


async def _renew_data_keys(keyring: PayloadKeyCache) -> None:
    while True:
        await asyncio.sleep(_RENEWAL_SECONDS)
        await asyncio.to_thread(keyring.renew)


async def _until_done(what: str, attempt: Callable[[], Awaitable[Done]]) -> Done:
    """Repeat `attempt` until it succeeds, because a worker may start before its servers."""
    while True:
        try:
            return await attempt()
        except OpenKcmError as failed:
            if not failed.retryable:
                raise
            log.warning("waiting", waiting_for=what, code=failed.code, message=failed.message, hint=failed.hint)
            await asyncio.sleep(_RETRY_SECONDS)


def main() -> None:
    """Run the worker process."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "worker")
        runtime = metrics_runtime(f"{settings.worker_metrics_host}:{settings.worker_metrics_port}", settings.log_format)
        asyncio.run(run(settings, wiring.build(settings, meter=runtime.metric_meter), runtime))
    except OpenKcmError as refused:
        sys.stderr.write(f"worker cannot run: {refused.code}: {refused.message}\nhint: {refused.hint}\n")
        _end(1)
    _end(0)


def _end(status: int) -> NoReturn:
    """End the process without finalizing the interpreter, after the exit handlers have run.

    A thread of Temporal's core may still be releasing the lock of the interpreter after its last result. If it does so
    during the finalization, Python aborts the process with SIGABRT.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way to run them before os._exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


READY = "openkcm_worker_ready"
READY_MEANING = "1 if this worker can provision tenants, else 0"


def metrics_runtime(address: str, form: LogForm = "json") -> Runtime:
    """Return the Temporal runtime of this process, which serves metrics at `address` (`host:port`).

    Raises:
        SettingsInvalid: another process uses the address, or it is not one of this machine.
    """
    metrics = PrometheusConfig(bind_address=address, durations_as_seconds=True, counters_total_suffix=True)
    try:
        runtime = Runtime(
            telemetry=TelemetryConfig(metrics=metrics, logging=core_logging(form)),
            worker_heartbeat_interval=timedelta(minutes=1),
        )
    except ValueError as refused:
        raise SettingsInvalid(
            f"metrics cannot be served at {address}: {refused}",
            "change worker_metrics_host or worker_metrics_port, or end the process that uses the port",
        ) from None
    _set_ready(runtime, 0)
    return runtime


def report_ready(runtime: Runtime) -> None:
    """Export readiness: the worker polls and the canary is active, so tenants can be provisioned."""
    _set_ready(runtime, 1)


def _set_ready(runtime: Runtime, value: int) -> None:
    runtime.metric_meter.create_gauge(READY, READY_MEANING).set(value)


if __name__ == "__main__":
    main()
