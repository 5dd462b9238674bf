"""Shipping of the write-ahead logs of all processes, running and ended, to PostgreSQL: audit streams, usage, last seen.

One process ships for all, exactly once despite any crash: a batch is recorded on disk before it is shipped. After a
crash the same batch is shipped again with the same ids, and the database ignores what it already has.

A batch names parts of log files and the id under which their sums are stored in the database. If a crash produced a
new batch instead, records that were added meanwhile would change the sums, and some would be counted twice.

A batch takes an equal share from each lane of the log: the records of a tenant that writes too much delay only itself.
"""

import errno
import fcntl
import json
import os
import secrets
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import structlog

from core.errors.platform import DatabaseUnavailable
from crypto_service.audit.events import TenantBatch, WalSlice, records
from crypto_service.audit.wal import (
    WAITING_BYTES,
    WalRecord,
    decode,
    free_bytes,
    lane_of,
    log_files,
    sync_folder,
    waiting_bytes,
    whole_part,
)
from database.connection.database import Database
from openkcm.errors import OpenKcmError, os_reason

_TICK_SECONDS = 0.6
"""From one batch to the next: records reach the streams within a second, and uses are summed in the meantime."""
_AT_ONCE = 1000
"""Records in one statement, so that it stays within the database's time limit also under load."""
_MAX_REJECTIONS = 30
"""How often the database may reject a tenant's records, once per tick, before they are set aside for an operator."""

log = structlog.get_logger()


@dataclass(slots=True)
class ShipperStats:
    """Totals of this process, for metrics."""

    lines: int = 0
    set_aside: int = 0
    damaged: int = 0
    waiting_bytes: int = 0
    capacity_bytes: int = 0
    """What may wait, by the limit of the log and the size of its disk."""
    failing_since: float = 0.0
    """By the monotonic clock, which no step of the system clock changes; 0 while shipping succeeds."""
    refusals: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True, slots=True)
class ShippingBatch:
    """`parts` maps file names to the start and end of the part."""

    batch_id: str
    parts: dict[str, tuple[int, int]]
    ended: frozenset[str] = frozenset()
    """Files that end with their part or have ended before: they are deleted after the batch is shipped."""
    full: bool = field(default=False, compare=False)
    """Whether more may wait than this batch contains, so that the next one follows at once."""


@dataclass(slots=True)
class _Selection:
    """The parts of a batch that is being selected."""

    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    full: bool = False


class ShipperCheckpoint:
    def __init__(self, folder: Path) -> None:
        """Load the state that an earlier process saved."""
        self._folder = folder
        self._done: dict[str, int] = {}
        self._batch: ShippingBatch | None = None
        self._last_lane = ""
        with suppress(FileNotFoundError):
            left = json.loads((folder / _FILE).read_text(encoding="ascii"))
            self._done = {str(name): int(end) for name, end in left["done"].items()}
            parts = {str(name): (int(start), int(end)) for name, (start, end) in left["parts"].items()}
            self._batch = ShippingBatch(str(left["batch_id"]), parts) if parts else None

    def next(self) -> ShippingBatch | None:
        """Return the batch to ship, the same until it is shipped; None when nothing waits."""
        if self._batch is not None:
            return replace(self._batch, full=True)  # records were added since it was selected
        batch = self._new_batch()
        if batch is not None and batch.parts:
            self._save(batch)
        self._batch = batch
        return batch

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return a part of a file; empty when the file is deleted, which happens only after it was shipped."""
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError:
            return b""

    def delivered(self) -> None:
        """Advance past the batch, and delete the files that are shipped completely."""
        assert self._batch is not None  # noqa: S101 - called only after `next` returned a batch
        self._done |= {name: end for name, (_, end) in self._batch.parts.items()}
        for name in self._batch.ended:
            (self._folder / name).unlink(missing_ok=True)
        if self._batch.ended:
            # Before the next batch, whose state no longer names these files: one that came back would be new.
            sync_folder(self._folder)
        self._batch = None

    def _new_batch(self) -> ShippingBatch | None:
        batch = _Selection()
        names = log_files(self._folder)
        self._done = {name: self._done.get(name, 0) for name in names}
        lanes: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            lanes[lane_of(name)].append(name)
        chosen = self._in_turn(lanes)
        room = _BATCH_BYTES
        for place, lane in enumerate(chosen):
            room -= self._select(lanes[lane], room // (len(chosen) - place), batch)
        if not batch.parts and not batch.ended:
            return None
        full = batch.full or len(chosen) < len(lanes)
        return ShippingBatch(_new_id(), batch.parts, frozenset(batch.ended), full)

    def _in_turn(self, lanes: Iterable[str]) -> Sequence[str]:
        """Return the shared lane and the tenants' lanes that follow those of the batch before."""
        own = sorted(lane for lane in lanes if lane)
        after = bisect_right(own, self._last_lane)
        chosen = (own[after:] + own[:after])[: _LANES - 1]
        self._last_lane = chosen[-1] if chosen else ""
        return ["", *chosen]

    def _select(self, names: Iterable[str], room: int, batch: "_Selection") -> int:
        """Add up to `room` bytes of the files of a lane, in their order; return the number of bytes read."""
        left = room
        for name in names:
            # Checked before the read: everything that the writer wrote before it released the lock is then read.
            closed = _is_closed(self._folder / name)
            start = self._done[name]
            data = self.read(name, start, start + left)
            whole = whole_part(data)
            if whole:
                batch.parts[name] = (start, start + len(whole))
            if len(data) == left:
                batch.full = True
                return room
            if closed:
                batch.ended.add(name)
            left -= len(data)
        return room - left

    def _save(self, batch: ShippingBatch) -> None:
        draft = self._folder / f".{_FILE}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(json.dumps({"done": self._done, "batch_id": batch.batch_id, "parts": batch.parts}).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / _FILE)
        # Before the batch is shipped: after a power failure the former file would lead to another batch.
        sync_folder(self._folder)


class AuditShipper:
    """Ships the log of one folder; MUST be the only one there, for which `run` waits."""

    def __init__(self, folder: Path, database: Database, shipped: Callable[[], None] = lambda: None) -> None:
        """`shipped` is called whenever everything that waited at one time is in the database."""
        self._folder, self._database, self._shipped = folder, database, shipped
        self._checkpoint: ShipperCheckpoint | None = None
        self.totals = ShipperStats()

    def run(self, stop: Event) -> None:
        """Ship until `stop`, then the remainder: every record of an answered request reaches its stream."""
        with self._folder_lock(stop) as held:
            while held and not stop.is_set():
                began = time.monotonic()
                if not self._try_once():
                    stop.wait(max(0.0, _TICK_SECONDS - (time.monotonic() - began)))
            while held and self._try_once():
                pass

    def once(self) -> ShippingBatch | None:
        """Ship one batch and return it; None when nothing waits.

        Raises: DatabaseUnavailable, and DatabaseRefused until the limit of rejections is reached; neither loses a
        record.
        """
        if self._checkpoint is None:
            self._checkpoint = ShipperCheckpoint(self._folder)
        batch = self._checkpoint.next()
        if batch is None:
            return None
        by_tenant = records(batch.batch_id, self._slices(self._checkpoint, batch))
        tolerated: OpenKcmError | None = None
        for tenant_id, found in by_tenant.items():
            tolerated = self._deliver(tenant_id, batch.batch_id, found) or tolerated
        if tolerated is not None:
            raise tolerated
        self._checkpoint.delivered()
        self.totals.lines += sum(found.lines for found in by_tenant.values())
        return batch

    def _try_once(self) -> bool:
        """Return whether more may wait, so that the next batch follows at once."""
        try:
            batch = self.once()
        except OpenKcmError as failed:
            self._record_failure("audit waits for the database", code=failed.code, message=failed.message)
            return False
        except OSError as failed:
            if failed.errno not in _NO_ROOM:
                raise
            self._record_failure("audit waits for room on the disk", reason=os_reason(failed))
            return False
        self.totals.failing_since = 0.0
        self._measure()
        if batch is None or not batch.full:
            self._shipped()
        return batch is not None and batch.full

    def _record_failure(self, event: str, **reason: str) -> None:
        self.totals.failing_since = self.totals.failing_since or time.monotonic()
        self._measure()
        log.warning(event, bytes=self.totals.waiting_bytes, **reason)

    def _measure(self) -> None:
        self.totals.waiting_bytes = waiting_bytes(self._folder)
        self.totals.capacity_bytes = min(WAITING_BYTES, self.totals.waiting_bytes + free_bytes(self._folder))

    @contextmanager
    def _folder_lock(self, stop: Event) -> Iterator[bool]:
        """Wait for the lock of the folder and hold it; yield False if `stop` is set before it is acquired."""
        with (self._folder / "delivery.lock").open("w", encoding="utf-8") as lock:
            held = False
            while not held and not stop.is_set():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    stop.wait(_TICK_SECONDS)
                else:
                    held = True
            yield held

    def _slices(self, checkpoint: ShipperCheckpoint, batch: ShippingBatch) -> Iterator[WalSlice]:
        for name, (start, end) in batch.parts.items():
            data = checkpoint.read(name, start, end)
            lines: list[WalRecord] = []
            for line in decode(data, start):
                if isinstance(line, WalRecord):
                    lines.append(line)
                else:
                    self._keep_damaged(name, line, data[line - start :].partition(b"\n")[0])
            yield WalSlice(name, lines)

    def _keep_damaged(self, name: str, offset: int, raw: bytes) -> None:
        """Write a damaged record to a file for an operator: its log file is deleted after it is shipped."""
        self._keep(f"{name}.{offset}.damaged", raw + b"\n", os.O_TRUNC)
        self.totals.damaged += 1
        log.error("journal line damaged", journal=name, offset=offset)

    def _deliver(self, tenant_id: str, batch_id: str, found: TenantBatch) -> OpenKcmError | None:
        try:
            with self._database.tenant_tx(tenant_id) as tx:
                for first in range(0, len(found.events), _AT_ONCE):
                    tx.audit.append_all(found.events[first : first + _AT_ONCE])
                tx.usage.add(found.usage, batch_id)
                if found.seen:
                    tx.services.seen(sorted(found.seen), found.last_at)
        except DatabaseUnavailable:
            raise
        except OpenKcmError as refused:
            self.totals.refusals[tenant_id] += 1
            if self.totals.refusals[tenant_id] < _MAX_REJECTIONS:
                return refused
            self._set_aside(tenant_id, found, refused)
        self.totals.refusals.pop(tenant_id, None)
        return None

    def _set_aside(self, tenant_id: str, found: TenantBatch, refused: OpenKcmError) -> None:
        """Append rejected records to a file for an operator, so that the records of other tenants are shipped."""
        lines = (json.dumps([tenant_id, event.model_dump(mode="json")]) + "\n" for event in found.events)
        self._keep("undeliverable.jsonl", "".join(lines).encode(), os.O_APPEND)
        self.totals.set_aside += found.lines
        log.error("audit records set aside", tenant_id=tenant_id, code=refused.code, lines=found.lines)

    def _keep(self, name: str, lines: bytes, mode: int) -> None:
        """Write to a file of the folder and flush it: afterwards the log file with these records is deleted."""
        descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | mode, 0o600)
        try:
            _write_lines(descriptor, lines)
        finally:
            os.close(descriptor)
        sync_folder(self._folder)


def _write_lines(descriptor: int, lines: bytes) -> None:
    """Append lines and flush them, all or none; raise OSError. They follow a line that a crash cut on a new line."""
    size = os.fstat(descriptor).st_size
    left = memoryview(b"\n" + lines if size and os.pread(descriptor, 1, size - 1) != b"\n" else lines)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


_FILE = "delivery.json"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors after which the shipper continues when the disk has room again; after others the process restarts."""
_BATCH_BYTES = 1024 * 1024
"""Bytes of a batch; the remainder follows in the next."""
_LANES = 16
"""Lanes in a batch: the share of each holds any record, of which the largest have a few kilobytes."""


def _new_id() -> str:
    return f"{time.time_ns():020d}-{secrets.token_hex(4)}"


def _is_closed(path: Path) -> bool:
    """Return whether the writer of a file has closed it or died: its lock is released."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
