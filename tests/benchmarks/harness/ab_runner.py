"""The same application twice, plain and under `openkcm run`, which run blocks of statements in turns."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.report import percentile

_HERE = Path(__file__).parent


class Side:
    """A running program that reads commands from stdin and writes results to stdout."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def do(self, what: str, **how: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what} | how) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the program ended in {what}")
        return json.loads(answer)

    def connect(self, conninfo: str) -> None:
        """Connect, and pin the program and its server process to one processor.

        Otherwise the kernel's placement would be measured: waking another processor takes as long as a statement.
        """
        backend = self.do("connect", conninfo=conninfo)
        processor = {max(os.sched_getaffinity(0))}
        os.sched_setaffinity(self._process.pid, processor)
        os.sched_setaffinity(backend, processor)

    def end(self) -> None:
        self._process.communicate()


def protected(program: Path, folder: Path) -> list[str]:
    """Return the command that runs a program as the service in a folder."""
    openkcm = str(Path(sys.executable).with_name("openkcm"))
    return [openkcm, "run", "--folder", str(folder), "--", sys.executable, str(program)]


@contextmanager
def sides(program: Path, folder: Path, *others: str) -> Iterator[Mapping[str, Side]]:
    """Run the program plain and as the service in a folder, and once more plain for each of the other names."""
    plain = [sys.executable, str(program)]
    found = {name: Side(plain) for name in ("plain", *others)} | {"protected": Side(protected(program, folder))}
    try:
        yield found
    finally:
        for side in found.values():
            side.end()


@contextmanager
def relayed(port: int, milliseconds: float) -> Iterator[int]:
    """Yield a port that relays to another with this additional round trip; without one, the port itself."""
    if not milliseconds:
        yield port
        return
    command = [sys.executable, str(_HERE / "delay_relay.py"), str(port), str(milliseconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate()


@dataclass(frozen=True)
class Compared:
    """Medians in milliseconds of blocks in turns; a block of each side is a round."""

    plain: Sequence[float]
    protected: Sequence[float]
    large: Sequence[float] = ()
    """Of a plain program whose values are as large as ciphertexts, if there is one."""

    @property
    def base(self) -> float:
        return statistics.median(self.plain)

    @property
    def added(self) -> float:
        """Milliseconds that protection adds to the median."""
        return statistics.median(self.protected) - self.base

    @property
    def overhead(self) -> float:
        """Percent of the plain side's time."""
        return 100 * self.added / self.base

    def summary(self) -> dict[str, Any]:
        rounds = [100 * (two / one - 1) for one, two in zip(self.plain, self.protected, strict=True)]
        found = {
            "plain (ms)": round(self.base, 4),
            "protected (ms)": round(self.base + self.added, 4),
            "added (µs)": round(1000 * self.added, 1),
        }
        if self.large:
            by_size = [1000 * (two - one) for one, two in zip(self.plain, self.large, strict=True)]
            found["of that, by larger values (µs)"] = round(statistics.median(by_size), 1)
        return found | {
            "overhead (%)": round(self.overhead, 1),
            "half of the rounds (%)": f"{percentile(rounds, 25):.1f} to {percentile(rounds, 75):.1f}",
            "under 5 % from (ms)": round(20 * self.added, 2),
        }


def compare(found: Mapping[str, Side], how: Mapping[str, Mapping[str, Any]], rounds: int) -> Compared:
    """Run a block on each side in turns, with the arguments in `how`; the first round does not count."""
    medians: dict[str, list[float]] = {side: [] for side in found}
    for number in range(rounds + 1):
        # The order alternates, so that neither side is always second.
        for side in sorted(found, reverse=bool(number % 2)):
            took = found[side].do("block", **how[side])
            if number:
                medians[side].append(statistics.median(took) / 1e6)
    return Compared(medians["plain"], medians["protected"], medians.get("large", ()))


Cases = dict[tuple[int, float, str], Compared]
"""By size of a value in bytes, milliseconds of network and workload."""


def network(delay: float) -> str:
    return f"{delay:g} ms of network" if delay else "loopback"


def plot(  # noqa: PLR0917 - the parts of the figure, by name
    found: Cases, workloads: Sequence[str], delays: Sequence[float], size: int, limit: float, title: str
) -> Figure:
    figure, axes = report.canvas(10, 5.5)
    places = np.arange(len(workloads))
    width = 0.8 / len(delays)
    for number, (delay, colour) in enumerate(zip(delays, (report.ORANGE, report.BLUE, report.GREEN), strict=False)):
        heights = [max(0.0, found[size, delay, workload].overhead) for workload in workloads]
        shift = (number - (len(delays) - 1) / 2) * width
        bars = axes.bar(places + shift, heights, width * 0.95, color=colour, label=network(delay))
        axes.bar_label(bars, fmt="{:.1f}", fontsize=8)
    axes.axhline(limit, color=report.RED, linewidth=1, label=f"{limit:g} %")
    axes.set_yscale("symlog", linthresh=limit)
    axes.set_xticks(places, [workload.replace(", ", ",\n") for workload in workloads], fontsize=9)
    axes.set(title=title, ylabel="% of the plain request")
    axes.legend(loc="upper left")
    return figure
