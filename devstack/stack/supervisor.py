"""Starts the components in order, in parallel where possible, and restarts those that end.

One loop runs in the main thread, because the death signal of a child is tied to the thread that started it. Blocking
work (preparing a folder, a task, a readiness check) runs in a thread pool. The status file describes the state and is
replaced atomically after every change.
"""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

import structlog

from core.errors.platform import ComponentFailed
from devstack.servers import process
from devstack.servers.base import Server
from devstack.stack.components import Component, Task
from devstack.stack.status import Report, State
from openkcm.errors import OpenKcmError, os_reason

_STARTING_TICK_SECONDS = 0.02
_QUIET_TICK_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_STABLE_SECONDS = 30.0
"""A component that was ready for this long is stable: its failures are forgotten, the next pause is the shortest."""
_READY_SECONDS = 90.0
_INTERNAL = "internal"

log = structlog.get_logger()


class SupervisedComponent:
    """One component and its progress towards readiness."""

    def __init__(self, component: Component, pool: ThreadPoolExecutor, stable_seconds: float = _STABLE_SECONDS) -> None:
        self.component = component
        self._stable_seconds = stable_seconds
        self.state = State.WAITING
        self._pool = pool
        self._pending: Future[Any] | None = None
        self._began = time.monotonic()
        self._ready_at = 0.0
        self._resume_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._seconds: float | None = None
        self._restarts = 0
        self._failure: OpenKcmError | None = None

    @property
    def server(self) -> Server | None:
        return self.component if isinstance(self.component, Server) else None

    def report(self) -> Report:
        server, failure = self.server, self._failure
        return Report(
            self.component.name,
            self.state,
            server.pid if server else None,
            server.address if server else None,
            self._seconds,
            self._restarts,
            failure.message if failure else None,
            failure.hint if failure else None,
        )

    def advance(self, ready: set[str]) -> None:
        """Take the next step if it is due."""
        try:
            match self.state:
                case State.WAITING if ready.issuperset(self.component.after):
                    self._began = time.monotonic()
                    self._pending = self._pool.submit(self._prepare)
                    self.state = State.PREPARING
                case State.PREPARING if self._pending is not None and self._pending.done():
                    self._pending.result()
                    self._start()
                case State.STARTING:
                    self._check_ready()
                case State.READY:
                    self._check_alive()
                case State.PAUSED if time.monotonic() >= self._resume_at:
                    self.state = State.WAITING
                case _:
                    pass
        except OpenKcmError as failed:
            self._pause_after(failed)
        except OSError as failed:
            what = f"{self.component.name} cannot be started: {os_reason(failed)}"
            where = f", {failed.filename}" if failed.filename else ""
            self._pause_after(ComponentFailed(what + where, "check free space and rights"))
        except Exception:
            log.exception("component failed", component=self.component.name)
            self._pause_after(_UnexpectedError())

    def _prepare(self) -> None:
        if isinstance(self.component, Task):
            self.component.run()
        else:
            self.component.prepare()
            self.component.end_orphan()

    def _start(self) -> None:
        if self.server is None:
            self._mark_ready()
            return
        self.server.start()
        log.info("component started", component=self.server.name, pid=self.server.pid)
        self._pending = None
        self.state = State.STARTING

    def _check_ready(self) -> None:
        server = self.server
        assert server is not None  # noqa: S101 - tasks are never in this state
        if self._pending is not None and self._pending.done():
            pending, self._pending = self._pending, None
            if pending.result() and server.alive:
                self._mark_ready()
                return
        if not server.alive or time.monotonic() - self._began > _READY_SECONDS:
            raise server.failure()
        if self._pending is None:
            self._pending = self._pool.submit(server.ready)

    def _mark_ready(self) -> None:
        self._ready_at = time.monotonic()
        self._seconds = round(self._ready_at - self._began, 2)
        self._failure = None
        self.state = State.READY
        log.info("component ready", component=self.component.name, seconds=self._seconds)

    def _check_alive(self) -> None:
        if time.monotonic() - self._ready_at > self._stable_seconds:
            self._pause, self._restarts = _FIRST_PAUSE_SECONDS, 0
        if self.server is not None and not self.server.alive:
            raise self.server.failure()

    def _pause_after(self, failed: OpenKcmError) -> None:
        log.warning("component failed", component=self.component.name, reason=failed.message)
        if self.server is not None:
            self.server.stop()
        self._failure, self._pending = failed, None
        self._restarts += 1
        self._resume_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        self.state = State.PAUSED


class _UnexpectedError(OpenKcmError):
    code = _INTERNAL
    message = "failed for an unexpected reason"
    hint = "see logs/supervisor.log in the state folder"


class Supervisor:
    def __init__(
        self,
        components: Sequence[Component],
        status_file: Path,
        about: dict[str, Any],
        stable_seconds: float = _STABLE_SECONDS,
    ) -> None:
        """Take the components, the path of the status file, and additional content for it."""
        self._pool = ThreadPoolExecutor(max_workers=len(components) + 1, thread_name_prefix="component")
        self._components = [SupervisedComponent(component, self._pool, stable_seconds) for component in components]
        self._status_file = status_file
        self._about = about
        self._stopping = Event()
        self._published: tuple[Report, ...] = ()
        self._unwritable = False

    def request_stop(self) -> None:
        """End `run`; safe to call from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the components running until a stop is requested, then stop them in reverse order.

        They are stopped as well when the folder of the status file is deleted: no command could stop them later.
        """
        while not self._stopping.is_set():
            if not self._status_file.parent.is_dir():
                log.warning("state folder deleted", folder=str(self._status_file.parent))
                break
            ready = {supervised.component.name for supervised in self._components if supervised.state is State.READY}
            for supervised in self._components:
                supervised.advance(ready)
            self._publish()
            all_ready = all(supervised.state is State.READY for supervised in self._components)
            self._stopping.wait(_QUIET_TICK_SECONDS if all_ready else _STARTING_TICK_SECONDS)
        self._stop()

    def _stop(self) -> None:
        """Stop processes that serve customers before the servers they use, each group in parallel."""
        log.info("stopping")
        for first in (True, False):
            group = [
                supervised
                for supervised in self._components
                if supervised.server and supervised.server.stops_first is first
            ]
            for stopped in [self._pool.submit(supervised.server.stop) for supervised in group if supervised.server]:
                stopped.result()
            for supervised in group:
                supervised.state = State.STOPPED
            self._publish()
        self._pool.shutdown()

    def _publish(self) -> None:
        reports = tuple(supervised.report() for supervised in self._components)
        if reports != self._published:
            me = process.identify(os.getpid())
            status = {
                **self._about,
                "supervisor": asdict(me) if me else None,
                "components": [asdict(report) for report in reports],
            }
            try:
                process.write_atomically(self._status_file, json.dumps(status))
            except OSError as failed:
                # A full disk must not end the supervisor, and every component with it; the next tick writes again.
                if not self._unwritable:
                    log.warning("status file not written", reason=os_reason(failed))
                self._unwritable = True
            else:
                self._published, self._unwritable = reports, False
