"""A terminated benchmark ends its servers and worker processes, while they start and later."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.harness.processes import family_of
from tests.concurrency import wait_until

_ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "last_line"),
    [("burst", "starting a stack in"), ("burst", "events accepted"), ("burst_floor", "  1: ")],
)
def test_terminated_benchmark_ends_its_processes(name: str, last_line: str) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", name]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout is not None
        folder = ""
        for line in benchmark.stdout:
            if "starting a stack in" in line:
                folder = line.split()[-1]
            if last_line in line:
                break
        wait_until(lambda: any("supervisor.pid" in files for _, _, files in os.walk(folder)), seconds=60)
        assert _processes_of(folder)
        descendants = family_of(benchmark.pid)[1:]

        benchmark.send_signal(signal.SIGTERM)

        assert benchmark.wait(120) == 128 + signal.SIGTERM
    # Python's own helper of child processes ends only after its parent.
    wait_until(lambda: not _processes_of(folder), seconds=10)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in descendants), seconds=10)
    assert not Path(folder).exists()


def _processes_of(folder: str) -> list[int]:
    """Return the processes whose environment names the folder's configuration."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if folder.encode() in environment:
            found.append(int(entry.name))
    return found
