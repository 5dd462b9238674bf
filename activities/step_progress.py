"""Progress of a step that makes several calls to the key server.

Responses are heartbeats, so an attempt lasts as long as the server responds, and a dead worker is detected within the
heartbeat timeout. A fixed timeout for all calls would let a slow server repeat the first ones without an end. After a
failure the next attempt continues after the last call whose result is in the heartbeat.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from temporalio import activity

Result = TypeVar("Result", str, int)
_INTERVAL_SECONDS = 1.0
"""The shortest time between heartbeats for responses, because each one costs the worker an encryption."""


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
            self._send()
        result: Result = self._results[name]
        return result

    def report_response(self) -> None:
        """Send a heartbeat, unless the last one is recent."""
        if time.monotonic() >= self._sent + _INTERVAL_SECONDS:
            self._send()

    def _send(self) -> None:
        self._sent = time.monotonic()
        activity.heartbeat(self._results)


_current: ContextVar[StepProgress | None] = ContextVar("step_progress", default=None)


@contextmanager
def track_progress() -> Iterator[StepProgress]:
    """Send heartbeats for the responses of the key server in the block, in all threads with its context."""
    progress = StepProgress()
    token = _current.set(progress)
    try:
        yield progress
    finally:
        _current.reset(token)


def report_response() -> None:
    """Send a heartbeat when the current step tracks its progress; the key server's session calls this."""
    progress = _current.get()
    if progress is not None:
        progress.report_response()
