"""Measured processes: wait until one serves, and read its resources from /proc, including all descendants."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_START_SECONDS = 20.0
_LOOP = """
import time
count, end = 0, time.monotonic() + 1
while time.monotonic() < end:
    count += 1
print(count)
"""


@dataclass(frozen=True)
class CpuSpan:
    """CPU seconds between two readings. `others` is the share of all cores that other processes used."""

    seconds: dict[str, float]
    elapsed: float
    others: float


@dataclass(frozen=True)
class CpuReading:
    at: float
    busy: float
    mine: float
    components: dict[str, float]

    def until(self, later: "CpuReading") -> CpuSpan:
        """Return the CPU time between this reading and `later`."""
        used = {name: round(later.components.get(name, 0.0) - self.components[name], 2) for name in self.components}
        elapsed = later.at - self.at
        busy, mine = later.busy - self.busy, later.mine - self.mine
        others = max(0.0, busy - mine - sum(used.values())) / (elapsed * (os.cpu_count() or 1))
        return CpuSpan(used, round(elapsed, 2), round(others, 3))


def wait_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a started process listens on a port; raise RuntimeError if it ends or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no listener on port {port}: {process.args!r}"[:300]) from None
            time.sleep(0.1)
        else:
            return


def read_cpu(pids: Mapping[str, int]) -> CpuReading:
    """Read CPU seconds so far. An ended descendant counts through its parent, which has waited for it."""
    tree = _children()
    at = float((_PROC / "uptime").read_text().split()[0])
    times = os.times()
    components = {name: sum(_cpu(pid) for pid in _family(pid, tree)) for name, pid in pids.items()}
    return CpuReading(at, _busy(), times.user + times.system, components)


def read_memory(pids: Mapping[str, int]) -> dict[str, float]:
    """Return MiB of each component; shared pages are divided among their users (PSS)."""
    tree = _children()
    return {name: round(sum(_pss(pid) for pid in _family(pid, tree)) / 1024, 1) for name, pid in pids.items()}


def family_of(pid: int) -> list[int]:
    """Return a process and its descendants."""
    return _family(pid, _children())


def read_resident(pids: Iterable[int]) -> float:
    """Return the largest resident set of these processes in MiB."""
    return max((_resident(pid) for pid in pids), default=0.0)


def _resident(pid: int) -> float:
    try:
        pages = (_PROC / str(pid) / "statm").read_text().split()[1]
    except OSError:
        return 0.0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def two_loops_over_one() -> float:
    """Return the count of two processes relative to one: below 2 if processors share a core."""
    alone = _count(1)
    return _count(2) / alone


def _count(processes: int) -> int:
    running = [
        subprocess.Popen([sys.executable, "-c", _LOOP], stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    return sum(int(process.communicate()[0]) for process in running)


def folder_size(folder: Path) -> float:
    """Return the disk usage of the files below `folder` in MiB."""
    blocks = 0
    for path in folder.rglob("*"):
        try:
            blocks += path.lstat().st_blocks
        except FileNotFoundError:  # a server has just deleted it
            continue
    return round(blocks * 512 / 2**20, 1)


def _busy() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(
        int, (_PROC / "stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS


def _cpu(pid: int) -> float:
    fields = _stat(pid)
    # User and system time, its own and that of children it has waited for (proc(5), fields 14 to 17).
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _pss(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _children() -> dict[int, list[int]]:
    tree: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else []
        if fields:
            tree.setdefault(int(fields[1]), []).append(int(entry.name))
    return tree


def _family(pid: int, tree: Mapping[int, list[int]]) -> list[int]:
    return [pid, *(member for child in tree.get(pid, []) for member in _family(child, tree))]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name, which can contain any character."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
