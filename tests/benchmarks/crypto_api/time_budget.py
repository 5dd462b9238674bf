"""The processor time of one request of the crypto service, by stage: where it goes, and what is left to save."""

import base64
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.crypto_api.stage_counters import BYTES, COUNTERS, STAGES, StageCounters
from tests.benchmarks.harness.closed_loop import Target, ask
from tests.benchmarks.harness.processes import family_of, read_cpu
from tests.benchmarks.harness.service_fixture import connected_stack, https_request
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Result

_TENANT = "budget-corp-1"
_BYTES = 1024
_CONCURRENCY = (1, 8)
_ROUNDS, _SECONDS = 7, 2.0
_REPORTED_SECONDS = 1.2
"""After this time the metrics have all requests."""
_ANSWERED = re.compile(r'^openkcm_crypto_operations_total\{operation="encrypt",refused=""\} (\S+)$', re.MULTILINE)
_IN_EACH_PROCESS = """
import os, sys

if "crypto_service" in sys.orig_argv:
    from pathlib import Path
    from tests.benchmarks.crypto_api.stage_counters import COUNTERS, install

    install(Path(os.environ[COUNTERS]))
"""
"""Python runs a module `sitecustomize` at the start of each process."""
_PROTOCOL = (
    "One stack, one tenant, one service, one serving process; POST /v1/encrypt of {bytes} bytes over mTLS on kept "
    "connections from the generator in C, {rounds} rounds of {seconds:g} s at each concurrency, medians. The stages of "
    "the running service are counted with a clock at their begin and end, without the stages within. What a counter "
    "costs is measured with empty functions and subtracted. “read” is the time of the serving process outside "
    "of the counted functions: event loop, system calls and decryption by TLS. “layers” is the rest between received "
    "bytes and the response. “whole” is measured without counters, in a stack before the other."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds, seconds = (1, 1.0) if quick else (_ROUNDS, _SECONDS)
    whole: dict[int, list[float]] = {}
    budgets: dict[int, list[dict[str, float]]] = {}
    with connected_stack(_TENANT, "microservice", crypto_processes=1) as (stack, folder):
        serving, target = _Serving(stack), _target(stack, folder)
        for number in _CONCURRENCY:
            whole[number] = [serving.load(target, number, seconds)[1] for _ in range(rounds)]
    with _counting() as counters, connected_stack(_TENANT, "microservice", crypto_processes=1) as (stack, folder):
        serving, target = _Serving(stack), _target(stack, folder)
        for number in _CONCURRENCY:
            budgets[number] = [_budget(serving, counters, target, number, seconds) for _ in range(rounds)]
    summary = {
        f"concurrency {number} (microseconds of a request)": {
            **{stage: round(median(one[stage] for one in budgets[number]), 1) for stage in ("read", *STAGES)},
            "whole": round(median(whole[number]), 1),
        }
        for number in _CONCURRENCY
    }
    result = Result(
        name="time_budget",
        title="Processor time of a request that encrypts 1 KiB, by stage",
        quick=quick,
        protocol=_PROTOCOL.format(bytes=_BYTES, rounds=rounds, seconds=seconds),
        checks=[],
        summary=summary,
        samples={
            "whole": {number: [round(one, 1) for one in found] for number, found in whole.items()},
            "stages": {
                number: [{stage: round(taken, 2) for stage, taken in one.items()} for one in found]
                for number, found in budgets.items()
            },
        },
    )
    return result, _plot(summary)


class _Serving:
    """The serving process of a stack: the busiest one of the crypto service."""

    def __init__(self, stack: Stack) -> None:
        self._pids = {str(pid): pid for pid in family_of(stack.pids()["crypto"])}
        self._metrics = f"http://{stack.settings.crypto_metrics_host}:{stack.settings.crypto_metrics_port}/metrics"

    def load(self, target: Target, connections: int, seconds: float) -> tuple[int, float]:
        """Return the number of requests, with those of the warm-up, and the processor time of each in microseconds."""
        answered, before = self._answered(), read_cpu(self._pids)
        ask(target, connections, seconds)
        used = max(before.until(read_cpu(self._pids)).seconds.values())
        requests = self._answered() - answered
        return requests, used / requests * 1e6

    def _answered(self) -> int:
        time.sleep(_REPORTED_SECONDS)
        found = _ANSWERED.search(httpx2.get(self._metrics, trust_env=False).text)
        return 0 if found is None else int(float(found[1]))


def _budget(
    serving: _Serving, counters: StageCounters, target: Target, connections: int, seconds: float
) -> dict[str, float]:
    """Return the microseconds of each stage of a request, without what the counters cost."""
    before = counters.read()
    requests, whole = serving.load(target, connections, seconds)
    found = {stage: one.since(before[stage]) for stage, one in counters.read().items()}
    function, coroutine = counters.costs()
    stages = {
        stage: (one.nanoseconds - one.functions * function.within - one.coroutines * coroutine.within) / requests / 1000
        for stage, one in found.items()
    }
    around = sum(one.functions * function.around + one.coroutines * coroutine.around for one in found.values())
    stages["layers"] -= around / requests / 1000
    within = sum(one.functions * function.within + one.coroutines * coroutine.within for one in found.values())
    return {"read": whole - sum(stages.values()) - (around + within) / requests / 1000} | stages


@contextmanager
def _counting() -> Iterator[StageCounters]:
    """Count in the crypto service that starts during the block."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory(prefix="openkcm-counters-") as folder:
        file = Path(folder) / "counters"
        file.write_bytes(bytes(BYTES))
        (Path(folder) / "sitecustomize.py").write_text(_IN_EACH_PROCESS, encoding="utf-8")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(report.ROOT), *([before] if before else [])])
        os.environ[COUNTERS] = str(file)
        try:
            yield StageCounters(file)
        finally:
            del os.environ[COUNTERS], os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def _target(stack: Stack, folder: Path) -> Target:
    body = {"plaintext": base64.b64encode(os.urandom(_BYTES)).decode(), "resource": "bench/record/1"}
    client = folder / "client.pem", folder / "client.key"
    request = https_request("/v1/encrypt", body)
    return Target(stack.settings.crypto_https_port, request, "http", folder / "ca.pem", client)


def _plot(summary: dict[str, Any]) -> Figure:
    figure, axes = report.canvas()
    names = ("read", *STAGES)
    places = np.arange(len(names))
    for shift, found, colour in zip((-0.2, 0.2), summary, (report.BLUE, report.ORANGE), strict=True):
        label = f"{found.partition(' (')[0]}: {summary[found]['whole']:g} µs"
        bars = axes.barh(places + shift, [summary[found][name] for name in names], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="{:.1f}", fontsize=8)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(title="Processor time of a request", xlabel="microseconds")
    axes.legend(loc="center right")
    return figure
