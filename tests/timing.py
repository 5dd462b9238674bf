"""Duration of the tests: a recorder for pytest, and a report of its records.

    pytest --timing=FOLDER …          record, one file for each process
    python -m tests.timing FOLDER     print the tables

Seconds are elapsed time; `CPU` is the processor time of the test process and of the child processes it waited for. Time
that a server or the operating system computes for a test counts as waiting of that test.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ROWS = 40


class Recorder:
    """Plugin that writes one line for each step of a test and each fixture."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{os.getpid()}.jsonl").open("w")

    @contextmanager
    def _timed(self, kind: str, name: str) -> Iterator[None]:
        elapsed, cpu = time.monotonic(), sum(os.times()[:4])
        yield
        spent = {"elapsed": time.monotonic() - elapsed, "cpu": sum(os.times()[:4]) - cpu}
        self._file.write(json.dumps({"kind": kind, "name": name, **spent}) + "\n")
        self._file.flush()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        with self._timed("setup", item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        with self._timed("call", item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        with self._timed("teardown", item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        with self._timed("fixture", f"{fixturedef.argname} ({fixturedef.scope})"):
            return (yield)


Row = tuple[str, float, float]
"""Name, elapsed seconds, CPU seconds."""


def read(folder: Path) -> dict[str, list[Row]]:
    """Return the recorded rows by kind."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            rows[record["kind"]].append((record["name"], record["elapsed"], record["cpu"]))
    return rows


def table(title: str, rows: Iterable[Row], most: int = _ROWS) -> str:
    """Return a Markdown table of the sums by name, the largest first."""
    sums: dict[str, tuple[int, float, float]] = defaultdict(lambda: (0, 0.0, 0.0))
    for name, elapsed, cpu in rows:
        count, *before = sums[name]
        sums[name] = (count + 1, before[0] + elapsed, before[1] + cpu)
    lines = [f"| {title} | times | seconds | CPU | waiting | seconds each |", "|---|---|---|---|---|---|"]
    for name, (count, elapsed, cpu) in sorted(sums.items(), key=lambda one: -one[1][1])[:most]:
        waiting = max(elapsed - cpu, 0)
        lines.append(f"| {name} | {count} | {elapsed:.1f} | {cpu:.1f} | {waiting:.1f} | {elapsed / count:.3f} |")
    return "\n".join(lines)


def main(folder: Path) -> None:
    rows = read(folder)
    steps = [(kind, *row[1:]) for kind in ("setup", "call", "teardown") for row in rows[kind]]
    tests = [row for kind in ("setup", "call", "teardown") for row in rows[kind]]
    folders = [("/".join(name.split("::")[0].split("/")[:2]), elapsed, cpu) for name, elapsed, cpu in rows["call"]]
    for title, part in (("step", steps), ("folder (call)", folders), ("fixture, with those it uses", rows["fixture"])):
        print(table(title, part), end="\n\n")  # noqa: T201 - a command's output
    print(table("test (set-up, call, tear-down)", tests))  # noqa: T201 - a command's output


if __name__ == "__main__":
    main(Path(sys.argv[1]))
