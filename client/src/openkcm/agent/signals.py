"""Waiting that a signal interrupts: SIGTERM and SIGINT stop the agent, SIGHUP requests a check now.

A handler only writes a byte into a pipe, so it cannot conflict with the code that it interrupts.
"""

import os
import select
import signal
from contextlib import suppress
from types import FrameType


class SignalWaiter:
    """`stopped` is final; the caller resets `check_requested`."""

    def __init__(self) -> None:
        self.stopped = False
        self.check_requested = False
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def listen(self) -> None:
        """Install the signal handlers of this process; call it from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._handle)

    def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until a signal arrives."""
        if self.stopped or self.check_requested:
            return
        select.select([self._reading], [], [], max(0.0, seconds))
        with suppress(BlockingIOError):
            while os.read(self._reading, 64):
                pass

    def stop(self) -> None:
        self.stopped = True
        self._wake()

    def request_check(self) -> None:
        self.check_requested = True
        self._wake()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.request_check()
        else:
            self.stop()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full: the waiter wakes anyway
            os.write(self._writing, b"!")
