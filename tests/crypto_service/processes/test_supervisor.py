"""The supervisor with controlled children: start, restart, ordered stop, and metrics."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.concurrency import wait_until
from tests.ports import free_port

pytestmark = pytest.mark.integration

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from crypto_service.server.metrics import Report
from crypto_service.processes.supervisor import NOTICE, Child, Supervisor

port, folder = int(sys.argv[1]), Path(sys.argv[2])

def note(name, what):
    with (folder / "notes").open("a") as notes:
        notes.write(f"{name} {what} {os.getpid()}\\n")

def job(name, deaf=False):
    def work(reports):
        if name == "late":
            note(name, "forked")
            while not (folder / "continue").exists():
                time.sleep(0.01)
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
        signal.signal(NOTICE, lambda *_: note(name, "noticed"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {NOTICE})
        note(name, "started")
        counters = {("openkcm_crypto_operations", (("operation", name), ("refused", ""))): 1}
        faults = ["journal_not_writable"] if name == "faulty" else []
        reports.send(Report(not faults, faults, counters).encode())
        if name == "crash":
            raise ValueError("never ready")
        while not stopped or deaf:
            time.sleep(0.01)
        note(name, "stopped")
    return work

children = [Child("one", job("one")), Child("two", job("two")), Child("last", job("last"), stage=1)]
if len(sys.argv) > 3:
    children.append(Child(sys.argv[3], job(sys.argv[3], deaf=sys.argv[3] == "deaf")))
notice = {"noticed": 2.0, "late": 600.0}.get(sys.argv[-1], 0.0)
Supervisor(children, ("127.0.0.1", port), 1.0, notice).run()
"""


class Parent:
    def __init__(self, folder: Path, *more: str) -> None:
        self.port, self._folder = free_port(), folder
        command = [sys.executable, "-c", PROGRAM, str(self.port), str(folder), *more]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def notes(self) -> list[list[str]]:
        file = self._folder / "notes"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def pids(self, name: str) -> list[int]:
        return [int(pid) for who, what, pid in self.notes() if (who, what) == (name, "started")]

    def notes_of(self, name: str) -> list[str]:
        return [what for who, what, _ in self.notes() if who == name]

    def wait_until_started(self, *names: str) -> None:
        """Wait until the service is ready and these children, which need not be the first to report, have handlers."""
        wait_until(lambda: all(self.pids(name) for name in names) and self.get("/readyz")[0] == 200)

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    started: list[Parent] = []

    def begin(*more: str) -> Parent:
        started.append(Parent(tmp_path, *more))
        return started[-1]

    yield begin
    for parent in started:
        parent.process.kill()
        parent.process.wait(60)


def test_children_start_and_stop_in_order_and_health_works_beside_silent_clients(start: Callable[..., Parent]):
    parent = start()
    wait_until(lambda: parent.get("/readyz") == (200, "ready\n"))
    wait_until(lambda: 'operations_total{operation="two",refused=""} 1.0' in parent.get("/metrics")[1])
    silent = [http.client.HTTPConnection("127.0.0.1", parent.port, timeout=3) for _ in range(80)]
    for connection in silent:
        connection.connect()
    wait_until(lambda: parent.get("/readyz")[0] == 200)
    for connection in silent:
        connection.close()
    parent.wait_until_started("one", "two", "last")
    assert parent.get("/nothing")[0] == 404
    assert parent.get("/metrics", "POST")[0] == 404
    parent.process.terminate()
    assert parent.process.wait(60) == 0
    stopped = [who for who, what, _ in parent.notes() if what == "stopped"]
    assert stopped[-1] == "last"
    assert sorted(stopped) == ["last", "one", "two"]


def test_fault_of_one_child_makes_the_service_not_ready_while_it_runs(start: Callable[..., Parent]):
    parent = start("faulty")
    wait_until(lambda: parent.get("/readyz") == (503, "journal_not_writable\n"))
    assert parent.get("/healthz") == (200, "running\n")


def test_stopping_service_is_not_ready_and_still_serves_until_load_balancers_noticed(start: Callable[..., Parent]):
    parent = start("noticed")
    parent.wait_until_started("one", "two", "last", "noticed")
    began = time.monotonic()
    parent.process.terminate()
    wait_until(lambda: parent.get("/readyz") == (404, "stopping\n"))
    wait_until(lambda: {name for name, what, _ in parent.notes() if what == "noticed"} == {"one", "two", "noticed"})
    assert not [what for _, what, _ in parent.notes() if what == "stopped"]
    assert parent.get("/healthz")[0] == 200
    assert parent.process.wait(60) == 0
    assert time.monotonic() - began > 2.0
    assert len([what for _, what, _ in parent.notes() if what == "stopped"]) == 4


def test_child_that_starts_during_the_stop_receives_the_notice(start: Callable[..., Parent], tmp_path: Path):
    parent = start("late")
    wait_until(lambda: parent.notes_of("late") == ["forked"])
    parent.process.terminate()
    wait_until(lambda: parent.get("/readyz") == (404, "stopping\n"))
    (tmp_path / "continue").touch()
    wait_until(lambda: "started" in parent.notes_of("late"))
    assert parent.notes_of("late") == ["forked", "noticed", "started"]


def test_killed_child_is_restarted_and_its_counters_remain(start: Callable[..., Parent]):
    parent = start()
    wait_until(lambda: parent.pids("one") and parent.get("/readyz")[0] == 200)
    wait_until(lambda: 'operation="one",refused=""} 1.0' in parent.get("/metrics")[1])
    os.kill(parent.pids("one")[0], signal.SIGKILL)
    wait_until(lambda: len(parent.pids("one")) == 2)
    wait_until(lambda: 'operation="one",refused=""} 2.0' in parent.get("/metrics")[1])


def test_failing_child_is_restarted_with_backoff_and_the_others_continue(start: Callable[..., Parent]):
    parent = start("crash")
    wait_until(lambda: len(parent.pids("crash")) >= 3)
    wait_until(lambda: len(parent.pids("one")) == 1 and parent.get("/readyz")[0] == 200)
    began, before = time.monotonic(), len(parent.pids("crash"))
    time.sleep(1.5)
    assert (len(parent.pids("crash")) - before) / (time.monotonic() - began) < 4
    assert len(parent.pids("two")) == 1


def test_child_that_ignores_sigterm_is_killed(start: Callable[..., Parent]):
    parent = start("deaf")
    parent.wait_until_started("one", "two", "last", "deaf")
    parent.process.terminate()
    assert parent.process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in parent.pids("deaf"))


def test_hardened_process_has_no_core_dump_and_no_debugger():
    program = (
        "from crypto_service.server.hardening import harden, allow_many_files; print(harden()); allow_many_files()"
    )
    program += "; import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    program += "; import ctypes; print('dumpable', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    assert "(0, 0)" in said
    assert "dumpable 0" in said
