"""Processes that are stopped like a hung server: they accept connections and do not respond."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.concurrency import wait_until


def pause(pid: int) -> None:
    """Stop a process and return when none of its threads runs any more.

    One thread takes the signal and stops the others. Until it gets a processor, the others continue and can respond.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _is_stopped(pid), lambda: f"process {pid} does not stop", seconds=10)


def resume(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Stop processes during the block."""
    try:
        for pid in pids:
            pause(pid)
        yield
    finally:
        for pid in pids:
            resume(pid)


def _is_stopped(pid: int) -> bool:
    states = set()
    with suppress(FileNotFoundError):  # the process has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                states.add((task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[0])
    return states <= {"T", "t", "Z"}
