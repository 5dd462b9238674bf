"""Prometheus metrics of the worker: Temporal's own and, through the same endpoint, OpenKCM's."""

from datetime import timedelta

from temporalio.runtime import LoggingConfig, PrometheusConfig, Runtime, TelemetryConfig, TelemetryFilter


def metrics_runtime(address: str) -> Runtime:
    """Return a runtime that serves metrics at `address` (`host:port`); one per process."""
    return Runtime(
        telemetry=TelemetryConfig(
            metrics=PrometheusConfig(bind_address=address, durations_as_seconds=True, counters_total_suffix=True),
            logging=LoggingConfig(filter=TelemetryFilter(core_level="WARN", other_level="ERROR")),
        ),
        worker_heartbeat_interval=timedelta(minutes=1),
    )


def say_ready(runtime: Runtime) -> None:
    """Serve `openkcm_worker_ready 1` from now on: the worker polls and the canary stands, so a tenant can be made."""
    runtime.metric_meter.create_gauge("openkcm_worker_ready", "1 once this worker can make tenants").set(1)
