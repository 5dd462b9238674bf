"""One append-only file of the journal, and the flushes to disk that its writers share."""

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import structlog

SUFFIX = ".journal"

log = structlog.get_logger()


class JournalFile:
    """Locked for as long as it is open, so that others can tell whether it may still grow."""

    def __init__(self, folder: Path, *, sync: bool, flush: Callable[[int], None] = os.fdatasync) -> None:
        """Create a file with a name of its own; raises OSError."""
        self.size = 0
        self._opened_at = time.monotonic()
        self._flush = flush
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self.name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        draft = folder / f".{self.name}"
        self._descriptor = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it gets the name that delivery looks for: it must never seem to be a dead process's.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            draft.rename(folder / self.name)
            if sync:
                _sync_folder(folder)
        except OSError:
            os.close(self._descriptor)
            raise

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened_at

    def append(self, lines: bytes) -> bool:
        """Write in one call; False when the disk took only a part, which is taken back. Raises OSError."""
        written = os.write(self._descriptor, lines)
        if written != len(lines):
            try:
                os.ftruncate(self._descriptor, self.size)
            except OSError:
                log.warning("journal keeps a torn line", journal=self.name)
            return False
        self.size += written
        return True

    async def until_safe(self) -> None:
        """Return when everything written before now is on disk: one flush at a time, shared. Raises OSError."""
        loop = asyncio.get_running_loop()
        safe: asyncio.Future[None] = loop.create_future()
        self._waiting.append(safe)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush_all())
        await safe

    def close(self) -> None:
        """Let go of the file, after a flush that is under way."""
        self._closed = True
        if self._flushing is None:
            os.close(self._descriptor)

    async def _flush_all(self) -> None:
        while self._waiting:
            sharing, self._waiting = self._waiting, []
            failed: OSError | None = None
            try:
                await asyncio.to_thread(self._flush, self._descriptor)
            except OSError as error:
                failed = error
            for safe in sharing:
                if not safe.done():
                    if failed is None:
                        safe.set_result(None)
                    else:
                        safe.set_exception(failed)
        self._flushing = None
        if self._closed:
            os.close(self._descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
