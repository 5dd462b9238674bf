"""The write-ahead log of one process: an append-only file to which each audit entry is written before the response.

One `os.write` passes the records to the kernel, where they survive the death of this process. With `sync` the
response also waits for the disk; concurrent writers share a flush. The shipper, a separate process, moves the records
to the tenants' audit streams and deletes the files.

All tenants share a file, until many records of one tenant wait for the database: its next records are in the files of
a dedicated lane. So the shipper can serve the tenants in turn, and a tenant without room is rejected alone.

Format of a record: `CRC-32 in hex, space, JSON array, newline`. A record is valid only with its newline and a matching
checksum. A record that a killed process left incomplete lacks one of them; its request was never answered, and the
shipper skips it.
"""

import asyncio
import fcntl
import os
import secrets
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import orjson
import structlog

from core.errors.compliance import AuditBacklogExceeded, AuditUnavailable
from core.services import CryptoOperation
from crypto_service.interfaces import AuditEntry

_ROTATED_BYTES = 8 * 1024 * 1024
_ROTATED_SECONDS = 60.0
WAITING_BYTES = 2 * 1024 * 1024 * 1024
"""What may wait for the database in the folder; beyond it requests are rejected, before the disk is full."""
RESERVED_BYTES = 16 * 1024 * 1024
"""What stays free on the disk: the shipper has to store its state before it can delete a shipped file."""
_UNCHECKED_BYTES = 64 * 1024
"""What a process writes before it reads the free space again; the reserve also covers it for all processes."""
SHARED_BYTES = 2 * 1024 * 1024
"""What may wait of a tenant in the shared files of a process before the tenant gets a lane."""
_PROBE, _BLOCK = ".probe", bytes(4096)

log = structlog.get_logger()


def journal_folder(state_dir: Path) -> Path:
    """Create the folder of the log, accessible only to its owner, and return it; raise OSError.

    It survives a power failure, as must the lines that will be flushed to files in it.
    """
    folder = state_dir / "crypto"
    missing = [one for one in (state_dir, *state_dir.parents) if not one.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for one in (folder, *missing):
        sync_folder(one.parent)
    return folder


def log_files(folder: Path) -> list[str]:
    """Return the names of the log files, in the order of their creation; drafts have another name."""
    names = (entry.name for entry in os.scandir(folder))
    return sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith("."))


def lane_of(name: str) -> str:
    """Return the tenant of a log file, or an empty string for a file that tenants share."""
    return name.removesuffix(SUFFIX).partition("@")[2]


def waiting_files(folder: Path) -> dict[str, int]:
    """Return the sizes of the log files that are not shipped, or not deleted yet; raise OSError."""
    sizes: dict[str, int] = {}
    for name in log_files(folder):
        with suppress(FileNotFoundError):  # shipped and deleted meanwhile
            sizes[name] = (folder / name).stat().st_size
    return sizes


def waiting_bytes(folder: Path) -> int:
    """Return the size of all log files that are not shipped, or not deleted yet."""
    return sum(waiting_files(folder).values())


def free_bytes(folder: Path) -> int:
    """Return what the log may still write to its disk, which is without the reserve; raise OSError."""
    status = os.statvfs(folder)
    if not status.f_blocks:  # a file system without a size
        return sys.maxsize
    return max(0, status.f_bavail * status.f_frsize - RESERVED_BYTES)


class WalSegment:
    """One file of the log. It stays locked while it is open, so that the shipper knows whether it may still grow."""

    def __init__(
        self, folder: Path, lane: str = "", *, sync: bool, flush: Callable[[int], None] = os.fdatasync
    ) -> None:
        """Create a file with a unique name; raise OSError."""
        self.size = 0
        self._opened_at = time.monotonic()
        self._flush = flush
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._failed: OSError | None = None
        """The error of a flush. The kernel may have dropped the pages that it could not write, and a later flush would
        succeed without them: it confirms no record of this file."""
        self._closed = False
        self.tenants: Counter[str] = Counter()
        """Bytes of each tenant."""
        mark = f"@{lane}" if lane else ""
        self.name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{mark}{SUFFIX}"
        draft = folder / f".{self.name}"
        self._descriptor = os.open(draft, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before the rename to the suffix that the shipper reads: otherwise it could seem abandoned.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            draft.rename(folder / self.name)
            if sync:
                sync_folder(folder)
        except OSError:
            os.close(self._descriptor)
            raise

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened_at

    def append(self, lines: bytes) -> bool:
        """Append with one write; return False when the disk took only a part, which is truncated. Raise OSError."""
        written = os.write(self._descriptor, lines)
        if written != len(lines):
            try:
                os.ftruncate(self._descriptor, self.size)
            except OSError:
                log.warning("incomplete journal line not truncated", journal=self.name)
            return False
        self.size += written
        return True

    async def until_safe(self) -> None:
        """Return when everything written before is on disk; one flush at a time, shared.

        Raise OSError, after the first one always.
        """
        if self._failed is not None:
            raise self._failed
        loop = asyncio.get_running_loop()
        safe: asyncio.Future[None] = loop.create_future()
        self._waiting.append(safe)
        if self._flushing is None:
            self._flushing = loop.create_task(self._flush_all())
        await safe

    def close(self) -> None:
        """Close the file, after a flush that is in progress."""
        self._closed = True
        if self._flushing is None:
            os.close(self._descriptor)

    async def _flush_all(self) -> None:
        while self._waiting:
            sharing, self._waiting = self._waiting, []
            if self._failed is None:
                try:
                    await asyncio.to_thread(self._flush, self._descriptor)
                except OSError as error:
                    self._failed = error
            for safe in sharing:
                if not safe.done():
                    if self._failed is None:
                        safe.set_result(None)
                    else:
                        safe.set_exception(self._failed)
        self._flushing = None
        if self._closed:
            os.close(self._descriptor)


class _Lane:
    """The files of one process in a lane."""

    def __init__(self) -> None:
        self.file: WalSegment | None = None
        self.bytes: Counter[str] = Counter()
        """Bytes of each tenant in the files that are not deleted yet."""
        self._files: list[WalSegment] = []

    @property
    def files(self) -> int:
        """The number of files that are not deleted yet, with the open one."""
        return len(self._files)

    def open(self, file: WalSegment) -> None:
        self.file = file
        self._files.append(file)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def forget_deleted(self, names: Container[str]) -> None:
        """Forget the files that are shipped; `names` are those that exist."""
        for file in [file for file in self._files if file.name not in names and file is not self.file]:
            self._files.remove(file)
            self.bytes -= file.tenants


class WriteAheadLog:
    """The log of one process. MUST be used from one thread, that of the event loop.

    A tenant with a lane may have as many bytes waiting there as are free in the folder. So n tenants that write without
    end have one share each of n + 1, and the last one stays free for all others.
    """

    def __init__(self, folder: Path, *, sync: bool = False, limit: int = WAITING_BYTES) -> None:
        self.operations: Counter[tuple[str, str]] = Counter()
        """(operation, rejection code or empty) → count, for metrics."""
        self.rejections = 0
        """Requests rejected because too many records wait for the database, or the disk has only the reserve left."""
        self.failure = asyncio.Event()
        """Set while it accepts no record."""
        self._folder, self._sync, self._limit = folder, sync, limit
        self._lanes: dict[str, _Lane] = {}
        self._waiting: Counter[str] = Counter()
        """Bytes in the folder by lane, of all processes: read each time a file is opened, and by `maintain`."""
        self._total = 0
        self._unchecked = 0
        """Bytes that may be written before the free space is read again."""
        self._logged: set[tuple[str, str]] = set()
        with suppress(OSError):
            self._read_waiting()

    async def write(self, entries: Sequence[AuditEntry]) -> None:
        """Return when the entries, all of one tenant, are durable.

        Raises AuditUnavailable, of which AuditBacklogExceeded concerns only this tenant; then nothing may be answered.
        """
        if not entries:
            return
        lines = join(entries, time.time_ns() // 1_000_000)
        size, tenant_id = len(lines), entries[0].tenant_id
        name = self._lane_for(tenant_id)
        lane, file = self._file_for(name, size)
        try:
            whole = file.append(lines)
            if whole:
                file.tenants[tenant_id] += size
                lane.bytes[tenant_id] += size
                self._waiting[name] += size
                self._total += size
            if whole and self._sync:
                await file.until_safe()
        except OSError as failed:
            self._abandon(file, os.strerror(failed.errno or 0))
            raise AuditUnavailable from failed
        if not whole:
            self._abandon(file, "the disk is full")
            raise AuditUnavailable
        self.failure.clear()
        for entry in entries:
            self.operations[entry.operation, entry.refused] += entry.count

    def is_writable(self) -> bool:
        """Return whether records may be added: the limit is not reached, and the disk has room and accepts a block."""
        if self._total < self._limit and self._accepts_block():
            self.failure.clear()
        else:
            self.failure.set()
        return not self.is_failing

    @property
    def is_failing(self) -> bool:
        return self.failure.is_set()

    def _accepts_block(self) -> bool:
        probe = self._folder / _PROBE
        try:
            if not free_bytes(self._folder):
                self.close()  # also of an idle process: the shipper can then delete its files
                return False
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                is_whole = os.write(descriptor, _BLOCK) == len(_BLOCK)
            finally:
                os.close(descriptor)
                probe.unlink(missing_ok=True)
        except OSError:
            return False
        return is_whole

    def close(self) -> None:
        """Close the files, so that the shipper may finish and delete them."""
        for lane in self._lanes.values():
            lane.close()

    def maintain(self) -> None:
        """Read what waits, and close files older than a minute; called by a timer, so that an idle process does it too.

        A file is not closed while an earlier one of its lane waits: otherwise files would accumulate with each minute
        for which the database is down. A folder that cannot be read, for example without a free descriptor, must not
        end the process: a write then reports it.
        """
        try:
            self._read_waiting()
        except OSError as failed:
            log.warning("journal folder not read", reason=os.strerror(failed.errno or 0))
            return
        for name, lane in list(self._lanes.items()):
            if lane.file is not None and lane.files == 1 and lane.file.size and lane.file.age > _ROTATED_SECONDS:
                lane.close()
            if not lane.files:
                del self._lanes[name]

    def _lane_for(self, tenant_id: str) -> str:
        """Return the lane of a tenant: its own as long as records wait there, of this or of another process."""
        if tenant_id in self._lanes or tenant_id in self._waiting:
            return tenant_id
        shared = self._lanes.get("")
        return tenant_id if shared is not None and shared.bytes.get(tenant_id, 0) > SHARED_BYTES else ""

    def _file_for(self, name: str, size: int) -> tuple[_Lane, WalSegment]:
        lane = self._lanes.get(name) or _Lane()
        if lane.file is not None and lane.file.size and lane.file.size + size > _ROTATED_BYTES:
            lane.close()
        try:
            if lane.file is None:
                self._read_waiting()
            self._require_room(name, size)
            self._require_free(size)
            file = lane.file or WalSegment(self._folder, name, sync=self._sync)
        except OSError as failed:
            self.failure.set()
            log.warning("journal not opened", reason=os.strerror(failed.errno or 0))
            raise AuditUnavailable from failed
        if lane.file is None:
            lane.open(file)
            self._lanes[name] = lane
        return lane, file

    def _require_room(self, lane: str, size: int) -> None:
        if self._limit - self._total - size >= (self._waiting.get(lane, 0) if lane else 0):
            return
        self._log_rejection("too many bytes wait for the database", lane)
        raise AuditBacklogExceeded if lane else AuditUnavailable

    def _require_free(self, size: int) -> None:
        """Reject a record for which the disk has only the reserve left; raise OSError."""
        self._unchecked -= size
        if self._unchecked >= 0:
            return
        free = free_bytes(self._folder)
        if free < size:
            self._unchecked = 0
            self.failure.set()
            self.close()  # so that the shipper can delete the files
            self._log_rejection("the disk is almost full", "")
            raise AuditUnavailable
        self._unchecked = min(free, _UNCHECKED_BYTES) - size

    def _log_rejection(self, reason: str, lane: str) -> None:
        self.rejections += 1
        if (reason, lane) not in self._logged:
            self._logged.add((reason, lane))
            log.error("journal refused", reason=reason, limit=self._limit, reserved=RESERVED_BYTES, lane=lane)

    def _read_waiting(self) -> None:
        sizes = waiting_files(self._folder)
        for lane in self._lanes.values():
            lane.forget_deleted(sizes)
        self._waiting = Counter()
        for name, size in sizes.items():
            self._waiting[lane_of(name)] += size
        self._total = self._waiting.total()
        self._logged.clear()

    def _abandon(self, file: WalSegment, reason: str) -> None:
        """Continue in another file, if the disk allows one."""
        self.failure.set()
        log.error("journal not written", reason=reason, journal=file.name)
        for lane in self._lanes.values():
            if lane.file is file:
                lane.close()


SUFFIX = ".journal"


def sync_folder(folder: Path) -> None:
    """Flush the names of a folder to disk; raise OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_CHECKSUM_LENGTH = 8
_OPERATIONS: Mapping[str, CryptoOperation] = MappingProxyType({one.value: one for one in CryptoOperation})


@dataclass(slots=True)
class WalRecord:
    """An entry with its offset in the file and the time at which it was written, in milliseconds since the epoch."""

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
        entry.recorded,
    ]
    if entry.names_subject:
        values.append(True)
    try:
        fields = orjson.dumps(values)
    except orjson.JSONEncodeError:  # a lone surrogate, which the servers should have rejected
        fields = orjson.dumps([_plain(value) if isinstance(value, str) else value for value in values])
    return b"%08x %b\n" % (zlib.crc32(fields), fields)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def whole_part(data: bytes) -> bytes:
    """Return `data` up to and including its last newline."""
    return data[: data.rfind(b"\n") + 1]


def decode(data: bytes, offset: int) -> Iterator[WalRecord | int]:
    """Yield the records of `data`, which begins at `offset` of its file; for a damaged record its offset."""
    for raw in data.splitlines(keepends=True):
        yield _decode_one(raw, offset) or offset
        offset += len(raw)


def _decode_one(raw: bytes, offset: int) -> WalRecord | None:
    checksum, fields = raw[:_CHECKSUM_LENGTH], raw[_CHECKSUM_LENGTH + 1 : -1]
    if raw[-1:] != b"\n" or b"%08x" % zlib.crc32(fields) != checksum:
        return None
    # A record of an earlier release has fewer values; the missing ones have the defaults of an entry.
    at, tenant_id, service, operation, *rest = orjson.loads(fields)
    return WalRecord(offset, at, AuditEntry(tenant_id, service, _OPERATIONS[operation], *rest))


def join(entries: Sequence[AuditEntry], at: int) -> bytes:
    """Return the records of several entries, for one write."""
    return b"".join([encode(entry, at) for entry in entries]) if len(entries) > 1 else encode(entries[0], at)
