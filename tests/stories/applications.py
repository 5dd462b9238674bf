"""A stock application under `openkcm run`, which never stops reading and writing, and what it got out of it when."""

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

from tests.stories.stack import OPENKCM, ROOT, other_machine

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.01
_PROGRAM = "monitor.py"
OK = "ok"


@dataclass(frozen=True)
class Told:
    """One line of the application; `at` is of the machine's monotonic clock, `said` is `ok` or its error."""

    at: float
    what: Literal["read", "write"]
    said: str


@dataclass(frozen=True)
class Stopped:
    """How a time of no service began: the last successes, and what was said first after them."""

    last_read: float
    last_write: float
    said: str


class Application:
    """The process and its log; it is never started again."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, conninfo: str) -> None:
        self.process, self._log, self.conninfo = process, log, conninfo

    def told(self, since: float = 0.0) -> list[Told]:
        """Return what it said after `since`."""
        assert self.process.poll() is None, self._log.read_text(encoding="utf-8")[-2000:]
        lines = self._log.read_text(encoding="utf-8").split("\n")[:-1]
        found = (line.split(" ", 2) for line in lines)
        return [Told(float(at), what, said) for at, what, said in found if float(at) > since]  # type: ignore[arg-type]  # as monitor.py writes it

    def wait_stopped(self, since: float, quiet_seconds: float, seconds: float = _PATIENCE_SECONDS) -> Stopped:
        """Wait until it has got nothing for `quiet_seconds`; raises TimeoutError when it still does after `seconds`."""
        deadline = time.monotonic() + seconds + quiet_seconds
        while time.monotonic() < deadline:
            told = self.told(since)
            last = {"read": since, "write": since} | {one.what: one.at for one in told if one.said == OK}
            after = [one for one in told if one.at > max(last.values())]
            if {one.what for one in after} == {"read", "write"} and after[-1].at > max(last.values()) + quiet_seconds:
                return Stopped(last["read"], last["write"], after[0].said)
            time.sleep(_POLL_SECONDS * 10)
        raise TimeoutError(f"it still reads or writes after {seconds:g} s")

    def wait_served(self, since: float, seconds: float = _PATIENCE_SECONDS) -> float:
        """Return when it first read and wrote again; raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            first: dict[str, float] = {}
            for one in self.told(since):
                if one.said == OK:
                    first.setdefault(one.what, one.at)
            if len(first) == 2:
                return max(first.values())
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"it does not read and write again after {seconds:g} s")

    def stored(self) -> list[str]:
        """Return what is in its table, as whoever has the database sees it."""
        with psycopg.connect(self.conninfo) as owner:
            return [note for (note,) in owner.execute("SELECT note FROM notes")]


@contextmanager
def running(folder: Path, conninfo: str, place: Path, *, key_seconds: float) -> Iterator[Application]:
    """Run it, as the service whose files are in `folder`, against a database that is the customer's own."""
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
