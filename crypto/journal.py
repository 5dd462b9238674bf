"""The write-ahead audit of one process: an append-only file, written to before anything is answered.

One `os.write` puts the lines into the kernel, where they survive the death of this process; with `sync` the answer
also waits for the disk. `delivery`, a process of its own, moves them to the tenants' audit streams and deletes the
files.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import structlog

from core.errors.compliance import AuditUnavailable
from crypto.interfaces import Entry
from crypto.journal_file import SUFFIX, JournalFile
from crypto.journal_lines import join

_ROTATED_BYTES = 8 * 1024 * 1024
_ROTATED_SECONDS = 60.0
WAITING_BYTES = 2 * 1024 * 1024 * 1024
"""What may wait for the database in the whole folder; beyond it nothing is answered, before the disk is full."""

log = structlog.get_logger()


def journal_folder(state_dir: Path) -> Path:
    """Return the folder of journals, made for its owner alone."""
    folder = state_dir / "crypto"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def waiting_bytes(folder: Path) -> int:
    """Return how much lies in journals that are not delivered, or not deleted yet."""
    total = 0
    for entry in os.scandir(folder):
        if entry.name.endswith(SUFFIX):
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # delivered and deleted meanwhile
                continue
    return total


class FileJournal:
    """MUST be used from one thread, the loop's."""

    def __init__(self, folder: Path, *, sync: bool = False, limit: int = WAITING_BYTES) -> None:
        self.operations: Counter[tuple[str, str]] = Counter()
        """(operation, code of the refusal or nothing) → how often, for metrics."""
        self._folder, self._sync, self._limit = folder, sync, limit
        self._file: JournalFile | None = None

    async def write(self, entries: Sequence[Entry]) -> None:
        """Return when the entries are safe; raises AuditUnavailable, and then nothing may be answered."""
        if not entries:
            return
        lines = join(entries, time.time_ns() // 1_000_000)
        file = self._file_for(len(lines))
        try:
            whole = file.append(lines)
            if whole and self._sync:
                await file.until_safe()
        except OSError as failed:
            # After a failed flush too: what the kernel could not write it may have dropped, and asking the same file
            # again proves nothing.
            self._abandon(file, os.strerror(failed.errno or 0))
            raise AuditUnavailable from failed
        if not whole:
            self._abandon(file, "the disk is full")
            raise AuditUnavailable
        for entry in entries:
            self.operations[entry.operation, entry.refused] += entry.count

    def close(self) -> None:
        """Let go of the file, so that delivery may finish and delete it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def rotate_if_old(self) -> None:
        """Let delivery have a file that was begun a while ago; for a timer, so that an idle process does it too."""
        if self._file is not None and self._file.size and self._file.age > _ROTATED_SECONDS:
            self.close()

    def _file_for(self, size: int) -> JournalFile:
        if self._file is not None and self._file.size and self._file.size + size > _ROTATED_BYTES:
            self.close()
        if self._file is None:
            try:
                if waiting_bytes(self._folder) + size > self._limit:
                    log.error("journal refused", reason="too much waits for the database", limit=self._limit)
                    raise AuditUnavailable
                self._file = JournalFile(self._folder, sync=self._sync)
            except OSError as failed:
                log.warning("journal not opened", reason=os.strerror(failed.errno or 0))
                raise AuditUnavailable from failed
        return self._file

    def _abandon(self, file: JournalFile, reason: str) -> None:
        """Go on in another file, if the disk lets us have one."""
        log.error("journal not written", reason=reason, journal=file.name)
        if self._file is file:
            self.close()
