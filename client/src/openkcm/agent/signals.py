"""Waiting that a signal ends: SIGTERM and SIGINT end the agent, SIGHUP has it look now.

A handler only writes a byte into a pipe, so that nothing it does can meet what it interrupted half way.
"""

import os
import select
import signal
from contextlib import suppress
from types import FrameType


class SignalWaiter:
    """`stopped` stays; `looked_for` is for whoever looks to put back."""

    def __init__(self) -> None:
        self.stopped = False
        self.looked_for = False
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def listen(self) -> None:
        """Take the signals of this process; for its main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._heard)

    def wait(self, seconds: float) -> None:
        """Wait that long, or until somebody rings."""
        if self.stopped or self.looked_for:
            return
        select.select([self._reading], [], [], max(0.0, seconds))
        with suppress(BlockingIOError):
            while os.read(self._reading, 64):
                pass

    def stop(self) -> None:
        self.stopped = True
        self._ring()

    def look(self) -> None:
        self.looked_for = True
        self._ring()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.look()
        else:
            self.stop()

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # it rings already
            os.write(self._writing, b"!")
