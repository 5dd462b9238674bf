"""What delivery means to deliver next, on record before it begins.

A plan names parts of journal files and the id under which their sums go into the database. After a crash the same plan
is delivered again; were it put together anew, what has come in meanwhile would change the sums and count twice.
"""

import fcntl
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from crypto.journal_file import SUFFIX
from crypto.journal_lines import whole_part

_FILE = "delivery.json"
_LARGEST = 1024 * 1024
"""Bytes of a plan; what is beyond comes with the next."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`parts` is file name → where the part begins and ends."""

    batch_id: str
    parts: dict[str, tuple[int, int]]
    ended: frozenset[str] = frozenset()
    """The files that end with their part, or have ended before: they may go once it is delivered."""
    full: bool = field(default=False, compare=False)
    """Whether more was waiting than a plan may hold."""


class Plans:
    def __init__(self, folder: Path) -> None:
        """Take up what an earlier process has left."""
        self._folder = folder
        self._done: dict[str, int] = {}
        self._plan: Plan | None = None
        with suppress(FileNotFoundError):
            left = json.loads((folder / _FILE).read_text(encoding="ascii"))
            self._done = {str(name): int(end) for name, end in left["done"].items()}
            parts = {str(name): (int(start), int(end)) for name, (start, end) in left["parts"].items()}
            self._plan = Plan(str(left["batch_id"]), parts) if parts else None

    def next(self) -> Plan | None:
        """Return the plan that is to be delivered, the same until it was; None when there is nothing."""
        if self._plan is None:
            self._plan = self._make()
            if self._plan is not None and self._plan.parts:
                self._put_on_record(self._plan)
        return self._plan

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return a part of a file; nothing when it is gone, which it is only after it was delivered."""
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            return b""

    def delivered(self) -> None:
        """Go on behind the plan, and let go of the files that are delivered to their end."""
        assert self._plan is not None  # noqa: S101 - there is none to be delivered otherwise
        self._done |= {name: end for name, (_, end) in self._plan.parts.items()}
        for name in self._plan.ended:
            (self._folder / name).unlink(missing_ok=True)
        self._plan = None

    def _make(self) -> Plan | None:
        parts: dict[str, tuple[int, int]] = {}
        ended: set[str] = set()
        room, full = _LARGEST, False
        names = sorted(path.name for path in self._folder.glob(f"*{SUFFIX}"))
        self._done = {name: self._done.get(name, 0) for name in names}
        for name in names:
            # Asked before reading: what its writer wrote before it let go is then in what we read.
            closed = _is_closed(self._folder / name)
            start = self._done[name]
            data = self.read(name, start, start + room)
            whole = whole_part(data)
            if whole:
                parts[name] = (start, start + len(whole))
            if len(data) == room:
                full = True
                break
            if closed:
                ended.add(name)
            room -= len(data)
        return Plan(_new_id(), parts, frozenset(ended), full) if parts or ended else None

    def _put_on_record(self, plan: Plan) -> None:
        draft = self._folder / f".{_FILE}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(json.dumps({"done": self._done, "batch_id": plan.batch_id, "parts": plan.parts}).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / _FILE)


def _new_id() -> str:
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


def _is_closed(path: Path) -> bool:
    """Whether the writer of a file has let go of it or died: its lock is gone."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
