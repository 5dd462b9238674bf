"""Heartbeats of a step, which detect a dead worker within the heartbeat timeout.

In a step that makes several calls to the key server the responses are heartbeats, so an attempt lasts as long as the
server responds. A fixed timeout for all calls would let a slow server repeat the first ones without an end. After a
failure the next attempt continues after the last call whose result is in the heartbeat.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from temporalio import activity

Result = TypeVar("Result", str, int)
_INTERVAL_SECONDS = 1.0
"""The shortest time between heartbeats for responses, because each one costs the worker an encryption."""
_LIVENESS_SECONDS = 0.5
"""The time between heartbeats without a result, which cost no encryption."""


class StepProgress:
    """The results of the calls of one step, by name. Temporal stores them, so they MUST NOT be secret."""

    def __init__(self) -> None:
        details = activity.info().heartbeat_details
        self._results: dict[str, Any] = dict(details[0]) if details else {}
        self._sent = time.monotonic()

    def run_once(self, name: str, call: Callable[[], Result]) -> Result:
        """Return the result of `call`, or the one that an earlier attempt received."""
        if name not in self._results:
            self._results = self._results | {name: call()}
            self.report_response()
        result: Result = self._results[name]
        return result

    def report_response(self) -> None:
        """Send a heartbeat, unless the last one is recent."""
        if time.monotonic() >= self._sent + _INTERVAL_SECONDS:
            self.send()

    def send(self) -> None:
        """Send a heartbeat with the results so far."""
        self._sent = time.monotonic()
        activity.heartbeat(self._results)


_current: ContextVar[StepProgress | None] = ContextVar("step_progress", default=None)


@contextmanager
def track_progress() -> Iterator[StepProgress]:
    """Send heartbeats for the responses of the key server in the block, in all threads with its context.

    A failure sends one too, so that the next attempt has all results.
    """
    progress = StepProgress()
    token = _current.set(progress)
    try:
        yield progress
    except Exception:
        progress.send()
        raise
    finally:
        _current.reset(token)


def report_response() -> None:
    """Send a heartbeat when the current step tracks its progress; the key server's session calls this."""
    progress = _current.get()
    if progress is not None:
        progress.report_response()


@contextmanager
def send_heartbeats() -> Iterator[None]:
    """Send heartbeats during the block, or during the decorated step: only those of a dead worker stop.

    They do not show progress. Therefore each call of the step MUST end within a deadline.
    """
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(_LIVENESS_SECONDS):
            activity.heartbeat()

    # Without the context the thread would not know its activity.
    sender = threading.Thread(target=copy_context().run, args=(send,), name="heartbeats", daemon=True)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()
