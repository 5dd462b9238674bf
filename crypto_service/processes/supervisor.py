"""The parent process: forks the children, restarts those that end, and serves health and metrics.

`/healthz` reports that this process runs, and `/readyz` whether requests should be sent here. After a signal to stop,
`/readyz` reports so for some time before the children stop, until each load balancer has noticed it. Meanwhile children
end each connection after a response, so that no request is under way when they close the rest. HAProxy
(`http-check disable-on-404`) leaves connections open after 404; after 503 it may close them.

It has one thread and a loop without asyncio, because it forks: a child inherits loaded code but no running task. The
parent connects to neither database nor Vault, so neither can block it.
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import structlog

from crypto_service.server.hardening import end_with_parent
from crypto_service.server.metrics import MetricsHttpServer, Report, Totals
from openkcm.errors import OpenKcmError

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_STEADY_SECONDS = 5.0
_LARGEST_REPORT = 65_536
_TICK_SECONDS = 0.25
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
NOTICE = signal.SIGUSR1
"""Sent to the first stage: SIGTERM follows soon."""

Job = Callable[[socket.socket], None]
"""The work of a child until SIGTERM; it sends its reports to the socket.

NOTICE is blocked until the job unblocks it, which it does when it has a handler: a notice before that is not lost.
"""

log = structlog.get_logger()


@dataclass(slots=True)
class Child:
    """One process. Children of a later `stage` are stopped after all children of earlier stages have ended."""

    name: str
    job: Job
    stage: int = 0
    pid: int | None = None
    reports: socket.socket | None = None
    started_at: float = 0.0
    resume_at: float = 0.0
    pause: float = _FIRST_PAUSE_SECONDS


class Supervisor:
    def __init__(
        self, children: Sequence[Child], address: tuple[str, int], stop_seconds: float, notice_seconds: float = 0.0
    ) -> None:
        """`address` is that of the metrics; `stop_seconds` is the time in which a stage must end before SIGKILL.

        `notice_seconds` is the time between a signal to stop and its first effect on the children.
        """
        self._notice_seconds = notice_seconds
        self._children = children
        self._stop_seconds = stop_seconds
        self._totals = Totals()
        self._selector = selectors.DefaultSelector()
        self._metrics_server = MetricsHttpServer(self._selector, address, self._answer)
        self._stopping: float | None = None
        self._stage = 0

    def run(self) -> None:
        """Keep the children running until SIGTERM or SIGINT, then stop them stage by stage."""
        woken, waker = socket.socketpair()
        woken.settimeout(0)
        waker.settimeout(0)
        signal.set_wakeup_fd(waker.fileno())
        for number in _SIGNALS:
            signal.signal(number, lambda number, _: self._on_signal(number))
        self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(4096))
        while self._stopping is None or any(child.pid for child in self._children):
            self._start_due()
            for key, _ in self._selector.select(_TICK_SECONDS):
                key.data()
            self._reap()
            self._metrics_server.drop_late()
            self._continue_stop()

    def _on_signal(self, number: int) -> None:
        if number != signal.SIGCHLD and self._stopping is None:
            log.info("stopping")
            self._stopping = time.monotonic() + self._notice_seconds
            _signal(self._children, 0, NOTICE)

    def _answer(self, path: bytes) -> tuple[int, bytes]:
        if path == b"/metrics":
            return 200, self._totals.text()
        if path == b"/healthz":
            return 200, b"running\n"
        if path == b"/readyz":
            if self._stopping is not None:
                return 404, b"stopping\n"
            faults = self._totals.faults
            if not faults and self._totals.ready:
                return 200, b"ready\n"
            return 503, "".join(f"{fault}\n" for fault in faults or ["not_serving"]).encode()
        return 404, b"not found\n"

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if self._stopping is None and child.pid is None and now >= child.resume_at:
                self._start(child)

    def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_SIGNALS, NOTICE})
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._run_child(child, theirs, parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_SIGNALS, NOTICE})
        theirs.close()
        ours.settimeout(0)
        child.pid, child.reports, child.started_at = pid, ours, time.monotonic()
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._receive_reports(child))
        log.info("process started", child=child.name, child_pid=pid)

    def _run_child(self, child: Child, reports: socket.socket, parent: int) -> NoReturn:
        """Run as the child: close everything that the parent uses, work, and exit without the parent's clean-up."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            for key in list(self._selector.get_map().values()):
                with suppress(OSError, AttributeError):
                    key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered
            self._selector.close()
            # Signals blocked until the job has handlers would not be lost, but could not stop a job that hangs.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            end_with_parent(parent)
            child.job(reports)
            status = 0
        except KeyboardInterrupt:
            status = 0
        except OpenKcmError as refused:
            described = {"code": refused.code, "message": refused.message, "hint": refused.hint}
            log.error("process failed", child=child.name, **described)  # noqa: TRY400 - code and hint suffice
        except BaseException:
            log.exception("process failed", child=child.name)
        finally:
            os._exit(status)

    def _receive_reports(self, child: Child) -> None:
        assert child.reports is not None  # noqa: S101 - registered only while it exists
        with suppress(BlockingIOError, ConnectionError):
            while data := child.reports.recv(_LARGEST_REPORT):
                self._totals.take(child.name, Report.decode(data))

    def _reap(self) -> None:
        for child in self._children:
            if child.pid is None:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._record_end(child, os.waitstatus_to_exitcode(status))

    def _record_end(self, child: Child, status: int) -> None:
        assert child.reports is not None  # noqa: S101 - the child had a pid
        self._receive_reports(child)
        self._selector.unregister(child.reports)
        child.reports.close()
        child.pid = child.reports = None
        self._totals.ended(child.name, expected=self._stopping is not None)
        now = time.monotonic()
        if self._stopping is None:
            steady = now - child.started_at > _STEADY_SECONDS
            child.pause = _FIRST_PAUSE_SECONDS if steady else min(2 * child.pause, _LONGEST_PAUSE_SECONDS)
            child.resume_at = now + (0.0 if steady else child.pause)
            log.error("process ended", child=child.name, status=status)

    def _continue_stop(self) -> None:
        """While stopping: send SIGTERM to the next stage, and SIGKILL to children that exceed the time limit."""
        now = time.monotonic()
        if self._stopping is None or (not self._stage and now < self._stopping):
            return
        running = [child for child in self._children if child.pid]
        if running and (stage := min(child.stage for child in running)) >= self._stage:
            self._stage, self._stopping = stage + 1, now + self._stop_seconds
            _signal(running, stage, signal.SIGTERM)
        elif now > self._stopping:
            self._stopping = now + self._stop_seconds
            _signal(running, self._stage - 1, signal.SIGKILL)


def _signal(children: Sequence[Child], stage: int, number: signal.Signals) -> None:
    for child in children:
        if child.pid is not None and child.stage == stage:
            os.kill(child.pid, number)
