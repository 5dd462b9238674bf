"""The supervisor with components of these tests: small HTTP servers and tasks."""

import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors.platform import ComponentFailed
from devstack.servers import process
from devstack.servers.base import Server, http_status
from devstack.servers.process import Identity
from devstack.stack.components import Component, Task
from devstack.stack.status import State
from devstack.stack.supervisor import Supervisor
from tests.concurrency import wait_until
from tests.ports import free_ports

pytestmark = pytest.mark.integration
_PATIENCE_SECONDS = 60


class Web(Server):
    """Serves its working directory on loopback."""

    def __init__(self, name: str, state_dir: Path, after: tuple[str, ...] = ()) -> None:
        self.name = name
        self.after = after
        super().__init__(state_dir, {f"{name}_port": free_ports(1)[0]})

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]

    def ready(self) -> bool:
        return http_status(self.port, "/") == 200


class Stubborn(Web):
    """Ends as soon as it is started."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", "raise SystemExit('no')"]


def test_killed_component_is_restarted(tmp_path: Path) -> None:
    web = Web("web", tmp_path)
    with supervised(tmp_path, [web]) as status:
        wait_until(lambda: status()["web"]["state"] == State.READY)
        first = status()["web"]["pid"]

        identity_of(first).end(signal.SIGKILL, 5)

        wait_until(lambda: status()["web"]["state"] == State.READY and status()["web"]["pid"] != first)
        assert status()["web"]["restarts"] == 1


def test_stable_component_has_no_restarts(tmp_path: Path) -> None:
    web = Web("web", tmp_path)
    with supervised(tmp_path, [web], stable_seconds=1.0) as status:
        wait_until(lambda: status()["web"]["state"] == State.READY)
        identity_of(status()["web"]["pid"]).end(signal.SIGKILL, 5)
        wait_until(lambda: status()["web"]["restarts"] == 1)

        wait_until(lambda: status()["web"]["restarts"] == 0)

        assert status()["web"]["state"] == State.READY


def test_supervisor_survives_a_status_file_that_it_cannot_write(tmp_path: Path) -> None:
    web = Web("web", tmp_path)
    obstacle = tmp_path / "status.json"
    obstacle.mkdir()
    (obstacle / "file").touch()
    with supervised(tmp_path, [web]) as status:
        wait_until(web.ready)
        shutil.rmtree(obstacle)

        wait_until(lambda: status()["web"]["state"] == State.READY)


def test_supervisor_stops_all_components_after_its_folder_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with supervised(folder, [Web("one", tmp_path), Web("two", tmp_path)]) as status:
        wait_until(lambda: all(report["state"] == State.READY for report in status().values()))
        running = [identity_of(report["pid"]) for report in status().values()]

        shutil.rmtree(folder)

        wait_until(lambda: not [identity for identity in running if identity.alive])
    assert not folder.exists()


def test_component_waits_for_its_dependencies(tmp_path: Path) -> None:
    gate = threading.Event()
    task = Task("task", lambda: gate.wait(_PATIENCE_SECONDS))
    web = Web("web", tmp_path, after=("task",))
    with supervised(tmp_path, [web, task]) as status:
        wait_until(lambda: status()["task"]["state"] == State.PREPARING)
        assert status()["web"] == status()["web"] | {"state": State.WAITING, "pid": None}

        gate.set()

        wait_until(lambda: status()["web"]["state"] == State.READY)


def test_task_is_retried_until_it_succeeds(tmp_path: Path) -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            raise ComponentFailed("not yet")

    with supervised(tmp_path, [Task("task", work)]) as status:
        wait_until(lambda: status()["task"]["state"] == State.READY)

        assert len(tries) == 3
        assert status()["task"]["problem"] is None


def test_component_that_ends_immediately_is_reported_and_does_not_stop_others(tmp_path: Path) -> None:
    with supervised(tmp_path, [Stubborn("stubborn", tmp_path), Web("web", tmp_path)]) as status:
        wait_until(lambda: status()["stubborn"]["restarts"] >= 2)

        assert "ended with status 1" in status()["stubborn"]["problem"]
        wait_until(lambda: status()["web"]["state"] == State.READY)


def test_nothing_runs_after_the_end(tmp_path: Path) -> None:
    with supervised(tmp_path, [Web("one", tmp_path), Web("two", tmp_path)]) as status:
        wait_until(lambda: all(report["state"] == State.READY for report in status().values()))
        running = [identity_of(report["pid"]) for report in status().values()]

    assert not [identity for identity in running if identity.alive]
    assert {report["state"] for report in status().values()} == {State.STOPPED}


@contextmanager
def supervised(
    folder: Path, components: Sequence[Component], stable_seconds: float = 30.0
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run a supervisor; yield a function that reads its status file by component."""
    status_file = folder / "status.json"

    def status() -> dict[str, Any]:
        if not status_file.is_file():
            return {component.name: {"state": None, "pid": None, "restarts": 0} for component in components}
        reports = json.loads(status_file.read_text(encoding="utf-8"))["components"]
        return {report["name"]: report for report in reports}

    supervisor = Supervisor(components, status_file, {}, stable_seconds)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield status
    finally:
        supervisor.request_stop()
        thread.join()


def identity_of(pid: int) -> Identity:
    identity = process.identify(pid)
    assert identity is not None
    return identity
