"""Prometheus metrics of the worker: Temporal's own and, through the same endpoint, OpenKCM's."""

from datetime import timedelta

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from workflows.connecting import LogForm, core_logging

READY = "openkcm_worker_ready"
READY_MEANING = "1 if this worker can provision tenants, else 0"


def metrics_runtime(address: str, form: LogForm = "json") -> Runtime:
    """Return this process's runtime, which serves metrics at `address` (`host:port`) and logs in `form`."""
    runtime = Runtime(
        telemetry=TelemetryConfig(
            metrics=PrometheusConfig(bind_address=address, durations_as_seconds=True, counters_total_suffix=True),
            logging=core_logging(form),
        ),
        worker_heartbeat_interval=timedelta(minutes=1),
    )
    _set_ready(runtime, 0)
    return runtime


def report_ready(runtime: Runtime) -> None:
    """Export 1 instead of 0 for readiness: the worker polls and the canary is active, so a tenant can be made."""
    _set_ready(runtime, 1)


def _set_ready(runtime: Runtime, value: int) -> None:
    runtime.metric_meter.create_gauge(READY, READY_MEANING).set(value)
