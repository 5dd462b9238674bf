"""A stock application under `openkcm run` that reads and writes all the time, and its log."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from tests.e2e.stack import OPENKCM, ROOT, other_machine

_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.01
_PROGRAM = "monitor.py"
OK = "ok"


@dataclass(frozen=True)
class LogEntry:
    """One line of the application's log: time of the monotonic clock, operation, and `ok` or the error."""

    at: float
    what: Literal["read", "write"]
    result: str


@dataclass(frozen=True)
class Stopped:
    """The start of an outage: the times of the last successes, and the first error after them."""

    last_read: float
    last_write: float
    said: str


class Application:
    """The process and its log; the process is never restarted."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, conninfo: str) -> None:
        self.process, self._log, self.conninfo = process, log, conninfo

    def entries(self, since: float = 0.0) -> list[LogEntry]:
        """Return the log entries after `since`."""
        assert self.process.poll() is None, self._log.read_text(encoding="utf-8")[-2000:]
        lines = self._log.read_text(encoding="utf-8").split("\n")[:-1]
        found = (line.split(" ", 2) for line in lines)
        return [LogEntry(float(at), what, result) for at, what, result in found if float(at) > since]  # type: ignore[arg-type]  # monitor.py writes these values

    def wait_stopped(self, since: float, quiet_seconds: float, seconds: float = _TIMEOUT_SECONDS) -> Stopped:
        """Wait until both operations have failed for `quiet_seconds`; raises TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds + quiet_seconds
        while time.monotonic() < deadline:
            entries = self.entries(since)
            last = {"read": since, "write": since} | {one.what: one.at for one in entries if one.result == OK}
            after = [one for one in entries if one.at > max(last.values())]
            if {one.what for one in after} == {"read", "write"} and after[-1].at > max(last.values()) + quiet_seconds:
                return Stopped(last["read"], last["write"], after[0].result)
            time.sleep(_POLL_SECONDS * 10)
        raise TimeoutError(f"the application still reads or writes after {seconds:g} s")

    def wait_served(self, since: float, seconds: float = _TIMEOUT_SECONDS) -> float:
        """Wait until both operations succeed and return that time; raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            first: dict[str, float] = {}
            for one in self.entries(since):
                if one.result == OK:
                    first.setdefault(one.what, one.at)
            if len(first) == 2:
                return max(first.values())
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"the application does not read and write after {seconds:g} s")

    def stored(self) -> list[str]:
        """Return the stored values as the owner of the database reads them."""
        with psycopg.connect(self.conninfo) as owner:
            return [note for (note,) in owner.execute("SELECT note FROM notes")]


@contextmanager
def running(folder: Path, conninfo: str, place: Path, *, key_seconds: float) -> Iterator[Application]:
    """Run the application as the service of `folder`, with a database of the customer."""
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests" / "client" / "field_encryption" / "demo" / _PROGRAM, place / _PROGRAM)
    command = [OPENKCM, "run", "--folder", str(folder), "--key-seconds", f"{key_seconds:g}", "--"]
    log = place / "ward.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, sys.executable, _PROGRAM],
            cwd=place,
            env=other_machine() | {"WARD_DATABASE": conninfo},
            stdout=output,
            stderr=output,
        )
    application = Application(process, log, conninfo)
    try:
        application.wait_served(0.0)
        yield application
    finally:
        process.kill()
        process.wait(10)
