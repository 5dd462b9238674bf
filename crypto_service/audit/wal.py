"""The write-ahead audit of one process: an append-only file, written to before anything is answered.

One `os.write` puts the lines into the kernel, where they survive the death of this process; with `sync` the answer
also waits for the disk. `delivery`, a process of its own, moves them to the tenants' audit streams and deletes the
files.

One append-only file of the journal, and the flushes to disk that its writers share.

The lines of a journal file: `CRC-32 in hex, space, JSON array, newline`.

Two things make a line whole: its newline and its checksum. What a killed process left unfinished at the end of a file
lacks one of them, was never answered, and is passed over.
"""

import asyncio
import fcntl
import os
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import orjson
import structlog

from core.errors.compliance import AuditUnavailable
from core.services import CryptoOperation
from crypto_service.interfaces import AuditEntry

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


class WalSegment:
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


class WriteAheadLog:
    """MUST be used from one thread, the loop's."""

    def __init__(self, folder: Path, *, sync: bool = False, limit: int = WAITING_BYTES) -> None:
        self.operations: Counter[tuple[str, str]] = Counter()
        """(operation, code of the refusal or nothing) → how often, for metrics."""
        self._folder, self._sync, self._limit = folder, sync, limit
        self._file: WalSegment | None = None

    async def write(self, entries: Sequence[AuditEntry]) -> None:
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

    def _file_for(self, size: int) -> WalSegment:
        if self._file is not None and self._file.size and self._file.size + size > _ROTATED_BYTES:
            self.close()
        if self._file is None:
            try:
                if waiting_bytes(self._folder) + size > self._limit:
                    log.error("journal refused", reason="too much waits for the database", limit=self._limit)
                    raise AuditUnavailable
                self._file = WalSegment(self._folder, sync=self._sync)
            except OSError as failed:
                log.warning("journal not opened", reason=os.strerror(failed.errno or 0))
                raise AuditUnavailable from failed
        return self._file

    def _abandon(self, file: WalSegment, reason: str) -> None:
        """Go on in another file, if the disk lets us have one."""
        log.error("journal not written", reason=reason, journal=file.name)
        if self._file is file:
            self.close()


SUFFIX = ".journal"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_CHECKSUM_LENGTH = 8
_OPERATIONS: Mapping[str, CryptoOperation] = MappingProxyType({one.value: one for one in CryptoOperation})


@dataclass(slots=True)
class WalRecord:
    """An entry with its place in the file and the time it was written, in milliseconds since the epoch."""

    offset: int
    at: int
    entry: AuditEntry


def encode(entry: AuditEntry, at: int) -> bytes:
    values = [
        at,
        entry.tenant_id,
        entry.service,
        entry.operation,
        entry.subject,
        entry.correlation_id,
        entry.source,
        entry.refused,
        entry.count,
        entry.bytes,
        entry.microseconds,
    ]
    try:
        fields = orjson.dumps(values)
    except orjson.JSONEncodeError:  # a lone surrogate, which no text from a client should have got past its front
        fields = orjson.dumps([_plain(value) if isinstance(value, str) else value for value in values])
    return b"%08x %b\n" % (zlib.crc32(fields), fields)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def whole_part(data: bytes) -> bytes:
    """Return `data` up to and with its last newline."""
    return data[: data.rfind(b"\n") + 1]


def decode(data: bytes, offset: int) -> Iterator[WalRecord | int]:
    """Yield the lines of `data`, which begins at `offset` of its file; for a damaged one its offset."""
    for raw in data.splitlines(keepends=True):
        yield _decode_one(raw, offset) or offset
        offset += len(raw)


def _decode_one(raw: bytes, offset: int) -> WalRecord | None:
    checksum, fields = raw[:_CHECKSUM_LENGTH], raw[_CHECKSUM_LENGTH + 1 : -1]
    if raw[-1:] != b"\n" or b"%08x" % zlib.crc32(fields) != checksum:
        return None
    # A line from before requests were timed ends one value earlier, and its entry says that nobody timed it.
    at, tenant_id, service, operation, *rest = orjson.loads(fields)
    return WalRecord(offset, at, AuditEntry(tenant_id, service, _OPERATIONS[operation], *rest))


def join(entries: Sequence[AuditEntry], at: int) -> bytes:
    """Return the lines of several entries, for one write."""
    return b"".join([encode(entry, at) for entry in entries]) if len(entries) > 1 else encode(entries[0], at)
