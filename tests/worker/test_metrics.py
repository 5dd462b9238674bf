"""The worker's metrics as Prometheus reads them."""

import socket

import pytest

from activities.runtime.metrics import COUNTERS, Metrics
from config.settings import Settings
from core.errors.platform import SettingsInvalid
from core.keys.rotation import StallReason
from devstack.servers.base import http_answer
from devstack.stack.components import components
from scripts.generate_docs import exported_metrics
from tests.ports import free_port
from worker.__main__ import metrics_runtime, report_ready
from worker.bootstrap import root_key_watches


def own_samples(port: int) -> dict[str, float]:
    status, page = http_answer(port, "/metrics") or (0, "")
    assert status == 200
    lines = [line.rpartition(" ") for line in page.splitlines() if line.startswith("openkcm_")]
    return {name: float(value) for name, _, value in lines}


@pytest.mark.integration
def test_every_metric_series_of_the_worker_starts_with_zero(tmp_path) -> None:
    settings = Settings(worker_metrics_port=free_port(), state_dir=tmp_path)
    runtime = metrics_runtime(f"127.0.0.1:{settings.worker_metrics_port}")
    watches = list(root_key_watches(settings.regions, 2))
    metrics = Metrics(runtime.metric_meter, watches)
    before = own_samples(settings.worker_metrics_port)
    documented = {name for name, process, kind, _ in exported_metrics() if (process, kind) != ("worker", "histogram")}
    assert {name.partition("{")[0] for name in before} == {name for name in documented if "_crypto_" not in name}
    assert len(before) == 1 + len(watches) + sum(len(spec.series) for spec in COUNTERS.values())
    assert set(before.values()) == {0}

    metrics.count_stuck_rotations([StallReason.FAILED])
    after = own_samples(settings.worker_metrics_port)
    (changed,) = (name for name, value in after.items() if value != before[name])
    assert changed.startswith("openkcm_rotations_stalled_total{")
    assert 'why="failed"' in changed

    metrics.record_root_key_delay(watches[1], 7.5)
    late = {name: value for name, value in own_samples(settings.worker_metrics_port).items() if value == 7.5}
    (shard,) = late
    assert shard.startswith("openkcm_root_key_check_delay_seconds{")
    assert f'region="{settings.regions[0]}"' in shard
    assert 'shard="1-of-2"' in shard

    worker = next(one for one in components(settings) if one.name == "worker")
    assert not worker.ready()
    report_ready(runtime)
    assert worker.ready()


@pytest.mark.integration
def test_used_port_of_the_metrics_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingsInvalid, match=address) as refused:
            metrics_runtime(address)
    assert "worker_metrics_port" in refused.value.hint
