"""The worker's metrics as Prometheus reads them."""

import pytest

from activities.runtime.metrics import COUNTERS, Metrics
from config.settings import Settings
from core.keys.rotation import StallReason
from devstack.servers.base import http_answer
from devstack.stack.components import components
from scripts.generate_docs import exported_metrics
from tests.ports import free_port
from worker.__main__ import metrics_runtime, report_ready


def own_samples(port: int) -> dict[str, float]:
    status, page = http_answer(port, "/metrics") or (0, "")
    assert status == 200
    lines = [line.rpartition(" ") for line in page.splitlines() if line.startswith("openkcm_")]
    return {name: float(value) for name, _, value in lines}


@pytest.mark.integration
def test_every_metric_series_of_the_worker_starts_with_zero(tmp_path) -> None:
    settings = Settings(worker_metrics_port=free_port(), state_dir=tmp_path)
    runtime = metrics_runtime(f"127.0.0.1:{settings.worker_metrics_port}")
    metrics = Metrics(runtime.metric_meter)
    before = own_samples(settings.worker_metrics_port)
    documented = {name for name, process, kind, _ in exported_metrics() if (process, kind) != ("worker", "histogram")}
    assert {name.partition("{")[0] for name in before} == {name for name in documented if "_crypto_" not in name}
    assert len(before) == 1 + sum(len(spec.series) for spec in COUNTERS.values())
    assert set(before.values()) == {0}

    metrics.count_stuck_rotations([StallReason.FAILED])
    after = own_samples(settings.worker_metrics_port)
    (changed,) = (name for name, value in after.items() if value != before[name])
    assert changed.startswith("openkcm_rotations_stalled_total{")
    assert 'why="failed"' in changed

    worker = next(one for one in components(settings) if one.name == "worker")
    assert not worker.ready()
    report_ready(runtime)
    assert worker.ready()
