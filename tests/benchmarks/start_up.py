"""How long an operator waits for a command, and a platform for a new worker."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from statistics import median

import httpx2
import numpy as np
from matplotlib.figure import Figure

from config.settings import PREFIX
from devstack.stack.components import WORKER_READY
from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.stack import Stack, free_ports
from tests.benchmarks.report import Check, Result, spread
from tests.commands import command_line

_TENANT = "start-corp-1"
_ROUNDS = 7
_LIMITS = {"openkcmctl --help": 0.3, "openkcmctl tenant show": 0.5, "worker": 3.0}
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 60
_PROTOCOL = (
    "One stack with one active tenant, which does nothing during the measurement. In turns, {rounds} rounds: the "
    "command with `--help`, the command that shows the tenant, a further worker process from its start until its "
    "metrics report it as ready (read every 20 ms), and for comparison Python without any module of the product. "
    "All modules are compiled before, as in the image. Medians count."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds = 1 if quick else _ROUNDS
    # Containers often set it. Each process would then compile the product first, which an installation has compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with Stack() as stack:
        marketplace = Marketplace(stack.settings)
        marketplace.enable(_TENANT)
        marketplace.ready_seconds(_TENANT, patience=60)
        port = free_ports(0)[0]
        cases: Mapping[str, Callable[[], float]] = {
            "openkcmctl --help": lambda: _command(command_line(["--help"])),
            "openkcmctl tenant show": lambda: _command(command_line(["tenant", "show", _TENANT])),
            "worker": lambda: _worker(port),
            "Python alone": lambda: _command([sys.executable, "-c", "pass"]),
        }
        samples: dict[str, list[float]] = {name: [] for name in cases}
        for measure in cases.values():
            measure()  # stores the bytecode
        for _ in range(rounds):
            for name, measure in cases.items():
                samples[name].append(measure())
    result = Result(
        name="start_up",
        title="Time until a command has answered and a worker is ready",
        quick=quick,
        protocol=_PROTOCOL.format(rounds=rounds),
        checks=[Check(name, round(median(samples[name]), 3), limit, "s") for name, limit in _LIMITS.items()],
        summary={f"{name} (s)": spread(found) for name, found in samples.items()},
        samples={name: [round(seconds, 4) for seconds in found] for name, found in samples.items()},
    )
    return result, _plot(samples)


def _command(line: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(line, check=True, capture_output=True, timeout=_PATIENCE_SECONDS)
    return time.monotonic() - began


def _worker(port: int) -> float:
    """Return the seconds until a further worker is ready; it ends afterwards."""
    began = time.monotonic()
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker"],
        env=os.environ | {f"{PREFIX}WORKER_METRICS_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() - began < _PATIENCE_SECONDS:
            with suppress(httpx2.TransportError):
                if WORKER_READY in httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text:
                    return time.monotonic() - began
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"the worker is not ready after {_PATIENCE_SECONDS} s")
    finally:
        worker.terminate()
        worker.wait(_PATIENCE_SECONDS)


def _plot(samples: Mapping[str, list[float]]) -> Figure:
    figure, axes = report.canvas()
    places = np.arange(len(samples))
    bars = axes.barh(places, [median(found) for found in samples.values()], color=report.BLUE)
    axes.bar_label(bars, fmt="{:.2f}")
    for place, name in enumerate(samples):
        if name in _LIMITS:
            axes.plot([_LIMITS[name]] * 2, [place - 0.4, place + 0.4], color=report.RED, ls="--")
    axes.set_yticks(places, list(samples))
    axes.invert_yaxis()
    axes.set(title="Time until the answer, or until ready; dashed: limit", xlabel="seconds")
    return figure
