"""The complete stack through its command, each time as a separate process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, load_settings
from core.errors.platform import ComponentFailed
from devstack.doctor import examine
from devstack.servers import process
from devstack.servers.base import http_status
from devstack.servers.postgres import PostgresServer
from devstack.servers.process import Identity
from devstack.stack import control
from devstack.stack.status import State
from tests.commands import command_line
from tests.pausing import paused
from tests.ports import free_ports

pytestmark = pytest.mark.e2e
_SETTINGS = ("POSTGRES", "TEMPORAL", "TEMPORAL_UI", "TEMPORAL_METRICS", "MARKETPLACE", "CODEC", "WORKER_METRICS")
_SETTINGS += ("CRYPTO_HTTPS", "CRYPTO_KMIP", "CRYPTO_METRICS", "DASHBOARD")
_PROCESSES = {"postgres", "openbao", "temporal", "worker", "marketplace", "crypto", "dashboard", "codec"}


@dataclass(frozen=True)
class Stack:
    """A dedicated state folder, and the command run in it."""

    folder: Path
    environment: dict[str, str]
    become: tuple[str, ...] = ()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.become, *command_line(words), "--json"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        return self.run_together(words)[0]

    def run_together(self, *commands: tuple[str, ...]) -> list[tuple[int, dict[str, Any]]]:
        """Run commands at the same time."""
        ended = []
        for running in [self.begin(*words) for words in commands]:
            with running:
                printed, problems = running.communicate()
                assert "Traceback" not in problems
                ended.append((running.returncode, json.loads(printed)))
        return ended

    def up(self) -> dict[str, Any]:
        status, document = self.run("up")
        assert status == 0, document
        return document

    def left(self) -> list[str]:
        """Return the command lines of processes that use this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and process.identify(int(entry.name)) is not None:
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    cwd = str((entry / "cwd").readlink())
                except OSError:
                    continue
                if str(self.folder) in line or cwd.startswith(str(self.folder)):
                    found.append(line)
        return found


def build(folder: Path, become: tuple[str, ...] = ()) -> Stack:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}
    ports = dict(zip(_SETTINGS, free_ports(len(_SETTINGS)), strict=True)) | {"VAULT": free_ports(1, neighbours=1)[0]}
    environment |= {f"OPENKCM_{name}_PORT": str(port) for name, port in ports.items()}
    environment |= {"HOME": str(folder), "OPENKCM_STATE_DIR": str(folder / ".openkcm")}
    return Stack(folder, environment, become)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = build(tmp_path)
    yield stack
    stack.run("down")


@pytest.fixture
def database_stack(stack: Stack) -> Stack:
    """The stack with OpenBao and Temporal configured elsewhere, so that few components start before PostgreSQL."""
    elsewhere = {"OPENKCM_VAULT_ADDRESS": "http://127.0.0.1:9", "OPENKCM_TEMPORAL": "profile"}
    return Stack(stack.folder, stack.environment | elsewhere)


@pytest.fixture
def ordinary_stack() -> Iterator[Stack]:
    """The stack of an unprivileged user, if the tests run as root.

    If that user cannot access this interpreter, a user namespace gives root another user id and no privilege.
    """
    folder = Path(tempfile.mkdtemp())
    become: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if all(above.stat().st_mode & 0o001 for above in Path(sys.executable).resolve().parents):
            shutil.chown(folder, "nobody")  # lint-words: quotes the user name of POSIX systems
            become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        else:
            become = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
    stack = build(folder, become)
    yield stack
    stack.run("down")
    shutil.rmtree(folder)


def test_two_ups_start_one_stack_that_survives_kills_and_down_leaves_no_process(stack: Stack) -> None:
    first, second = stack.run_together(("up",), ("up",))
    assert [first[0], second[0]] == [0, 0], (first, second)
    before = pids(first[1])
    assert before == pids(second[1])
    assert set(before) == _PROCESSES
    assert [status for status, _ in stack.run_together(("status",), ("doctor",))] == [0, 0]
    status_reports_a_killed_component_before_its_supervisor_does(stack, before["dashboard"])
    up_waits_for_a_component_however_often_it_was_killed(stack)

    before = pids(stack.up())
    children = [identity_of(pid) for pid in before.values()]
    supervisor = json.loads((stack.folder / ".openkcm/run/supervisor.pid").read_text(encoding="utf-8"))
    os.kill(supervisor["pid"], signal.SIGKILL)
    assert process.wait_until_gone(children, 60)
    after = pids(stack.up())
    assert set(after) == _PROCESSES
    assert not set(after.values()) & set(before.values())

    status, document = stack.run("down")
    assert status == 0
    assert set(document["stopped"]) == _PROCESSES
    assert stack.left() == []
    assert stack.run("down") == (0, {"stopped": []})


def status_reports_a_killed_component_before_its_supervisor_does(stack: Stack, dashboard: int) -> None:
    supervisor = json.loads((stack.folder / ".openkcm/run/supervisor.pid").read_text(encoding="utf-8"))["pid"]
    with paused(supervisor):
        os.kill(dashboard, signal.SIGKILL)
        (status, shown), (doctor, examined) = stack.run_together(("status",), ("doctor",))

    assert (status, doctor) == (1, 1)
    assert [one["name"] for one in shown["components"] if one["state"] != "ready"] == ["dashboard"]
    assert shown["error"]["message"] == "dashboard is unresponsive"
    assert [one["name"] for one in examined["checks"] if not one["ok"]] == ["dashboard"]


def up_waits_for_a_component_however_often_it_was_killed(stack: Stack) -> None:
    port = int(stack.environment["OPENKCM_CODEC_PORT"])
    for _ in range(3):
        os.kill(pids(stack.up())["codec"], signal.SIGKILL)

    stack.up()

    assert http_status(port, "/healthz") == 200


def test_taken_port_is_an_error_and_nothing_is_left_running(stack: Stack) -> None:
    port = int(stack.environment["OPENKCM_CODEC_PORT"])
    with socket.socket() as held:
        held.bind(("127.0.0.1", port))
        held.listen()
        status, document = stack.run("up")

    assert status == 1
    assert document["error"]["code"] == "component_failed"
    assert f"port {port}" in document["error"]["message"]
    assert "OPENKCM_CODEC_PORT" in document["error"]["hint"]
    assert stack.left() == []


def test_database_of_another_installation_is_neither_used_nor_stopped(stack: Stack, postgres: PostgresServer) -> None:
    stack.environment["OPENKCM_POSTGRES_PORT"] = str(postgres.port)

    answers = {command: stack.run(command) for command in ("up", "status", "doctor", "down")}

    assert {command: status for command, (status, _) in answers.items()} == {
        "up": 1,
        "status": 1,
        "doctor": 1,
        "down": 0,
    }
    error = answers["up"][1]["error"]
    assert f"port {postgres.port} is in use by postgres (pid {postgres.pid})" in error["message"]
    assert error["hint"].startswith("set OPENKCM_POSTGRES_PORT to another port")
    assert postgres.alive
    assert postgres.ready()


def test_component_that_does_not_start_is_an_error_and_nothing_is_left_running(database_stack: Stack) -> None:
    occupied = database_stack.folder / ".openkcm" / "postgres"
    occupied.parent.mkdir()
    occupied.touch()

    status, document = database_stack.run("up")

    assert status == 1
    assert document["error"]["code"] == "component_failed"
    assert str(occupied) in document["error"]["message"]
    assert document["error"]["hint"]
    assert database_stack.left() == []


def test_database_that_is_not_prepared_is_an_error_at_once(database_stack: Stack, postgres: PostgresServer) -> None:
    url = {"OPENKCM_DATABASE_URL": f"postgresql://{postgres.address}/not_prepared"}
    began = time.monotonic()

    status, document = Stack(database_stack.folder, database_stack.environment | url).run("up")

    assert (status, document["error"]["code"]) == (1, "component_failed")
    assert "openkcmctl setup database" in document["error"]["hint"]
    assert time.monotonic() - began < 60  # half of the time after which any start is given up
    assert database_stack.left() == []


def test_status_reports_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    assert "disk" not in {report.name for report in control.status(settings).components}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))

    (disk,) = (report for report in control.status(settings).problems if report.name == "disk")

    assert (disk.state, disk.problem) == (State.FULL, f"0 MiB are free in {tmp_path}")
    assert "disk" in {finding.name for finding in examine(settings) if not finding.ok}


def test_up_ends_the_supervisor_after_its_deadline(database_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in database_stack.environment.items():
        monkeypatch.setenv(name, value)
    clock = time.monotonic

    def skip_an_hour(_: control.Status) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)

    with pytest.raises(ComponentFailed, match="not ready in time: postgres, worker"):
        control.up(load_settings(), skip_an_hour)

    monkeypatch.undo()
    assert database_stack.left() == []


def test_up_waits_while_components_become_ready(database_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in database_stack.environment.items():
        monkeypatch.setenv(name, value)
    clock, skipped, ready = time.monotonic, 0.0, set[str]()

    def skip_at_progress(now: control.Status) -> None:
        nonlocal skipped
        before = len(ready)
        ready.update(report.name for report in now.components if report not in now.problems)
        # Each component needs most of the time, so together they need more; no time is left for those after the last.
        skipped += 3600.0 if "dashboard" in ready else 100.0 * (len(ready) - before) if before else 0.0

    monkeypatch.setattr(time, "monotonic", lambda: clock() + skipped)
    with pytest.raises(ComponentFailed):
        control.up(load_settings(), skip_at_progress)

    assert {"postgres", "database", "dashboard"} <= ready
    monkeypatch.undo()
    assert database_stack.left() == []


@pytest.mark.full
def test_ordinary_user_runs_the_stack(ordinary_stack: Stack) -> None:
    document = ordinary_stack.up()

    assert {component["state"] for component in document["components"]} == {"ready"}
    for pid in pids(document).values():
        privileges = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        assert "CapEff:\t0000000000000000\n" in privileges


def test_server_that_exists_elsewhere_is_not_started(stack: Stack) -> None:
    elsewhere = stack.environment | {"OPENKCM_DATABASE_URL": "postgresql://db.example/openkcm"}

    status, document = Stack(stack.folder, elsewhere).run("status")

    assert (status, document["error"]["message"]) == (1, "the stack is not running")
    (postgres,) = [component for component in document["components"] if component["name"] == "postgres"]
    assert (postgres["state"], postgres["pid"]) == ("external", None)


def pids(document: dict[str, Any]) -> dict[str, int]:
    return {component["name"]: component["pid"] for component in document["components"] if component["pid"] is not None}


def identity_of(pid: int) -> Identity:
    identity = process.identify(pid)
    assert identity is not None
    return identity
