"""Moves the journals of all processes, living and dead, into PostgreSQL: audit streams, usage, last seen.

One process does it for all. Exactly once, whatever is killed when: the range of a batch is written beside the file
before it is delivered, so after a crash the same range is delivered again, with the same ids, and what the database
has of it already adds nothing. A file goes when its writer has let go of it and all of it is in the database.
"""

import fcntl
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TextIO

import structlog

from crypto.journal import waiting_bytes
from crypto.journal_file import SUFFIX
from crypto.journal_lines import Line, decode, whole_part
from crypto.records import TenantRecords, records
from database.interfaces import TenantDatabase
from tenancy.errors import DatabaseUnavailable, OpenKcmError

_BATCH_BYTES = 1024 * 1024
_TICK_SECONDS = 0.4
_REFUSALS_BORNE = 30
"""How often a tenant's records may be refused, a tick apart at least, before they are set aside for a person."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Batch:
    path: Path
    start: int
    end: int
    last: bool
    by_tenant: dict[str, TenantRecords]


@dataclass(slots=True)
class Delivered:
    """Totals of this process, for metrics."""

    lines: int = 0
    set_aside: int = 0
    damaged: int = 0
    waiting_bytes: int = 0
    failing_since: float = 0.0
    refusals: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Delivery:
    """MUST be the only one in its folder: `alone` waits for that."""

    def __init__(self, folder: Path, database: TenantDatabase) -> None:
        self._folder, self._database = folder, database
        self._done: dict[str, int] = {}
        self._intended: dict[str, tuple[int, int]] = {}
        self.totals = Delivered()

    @contextmanager
    def alone(self, stop: Event) -> Iterator[None]:
        """Hold the folder's lock, waiting for whoever has it until `stop`."""
        with (self._folder / "delivery.lock").open("w", encoding="utf-8") as lock:
            while not stop.is_set():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    stop.wait(_TICK_SECONDS)
                else:
                    break
            yield

    def run(self, stop: Event) -> None:
        """Deliver until `stop`, then what is left: what was answered before is in the streams after."""
        with self.alone(stop):
            while not stop.is_set():
                if not self._try_once():
                    stop.wait(_TICK_SECONDS)
            while self._try_once():
                pass

    def once(self) -> int:
        """Deliver one batch of each file and return how many lines that were.

        Raises: DatabaseUnavailable, and DatabaseRefused while a refusal is still borne; nothing is lost by either.
        """
        batches = [batch for path in sorted(self._folder.glob(f"*{SUFFIX}")) if (batch := self._next(path))]
        by_tenant: defaultdict[str, list[TenantRecords]] = defaultdict(list)
        for batch in batches:
            for tenant_id, found in batch.by_tenant.items():
                by_tenant[tenant_id].append(found)
        borne: OpenKcmError | None = None
        for tenant_id, all_found in by_tenant.items():
            borne = self._deliver(tenant_id, all_found) or borne
        if borne is not None:
            raise borne
        for batch in batches:
            self._finish(batch)
        self.totals.waiting_bytes = waiting_bytes(self._folder)
        return sum(found.lines for batch in batches for found in batch.by_tenant.values())

    def _try_once(self) -> int:
        try:
            lines = self.once()
        except OpenKcmError as failed:
            self.totals.failing_since = self.totals.failing_since or time.time()
            self.totals.waiting_bytes = waiting_bytes(self._folder)
            log.warning("audit waits for the database", code=failed.code, bytes=self.totals.waiting_bytes)
            return 0
        self.totals.failing_since = 0.0
        self.totals.lines += lines
        return lines

    def _next(self, path: Path) -> _Batch | None:
        """Return what is to be delivered next of a file, its range put on record; None when there is nothing."""
        # Asked before reading: what was written until the writer let go is then in what we read.
        ended = _ended(path)
        start, end = self._range(path)
        data = _read(path, start, (end or start + _BATCH_BYTES) - start)
        whole = whole_part(data)
        last = ended and len(data) < _BATCH_BYTES and end is None
        if not whole and not last:
            return None
        if whole and end is None:
            _put_on_record(path, start, start + len(whole))
        lines = [line for line in decode(whole, start) if isinstance(line, Line)]
        damaged = whole.count(b"\n") - len(lines)
        if damaged:
            self.totals.damaged += damaged
            log.error("journal lines damaged", journal=path.name, lines=damaged)
        end = start + len(whole)
        self._intended[path.name] = (start, end)
        return _Batch(path, start, end, last, records(path.name, start, end, lines))

    def _range(self, path: Path) -> tuple[int, int | None]:
        """Return where to begin and, when an earlier delivery may have got half way, where it wanted to end."""
        if path.name in self._intended:
            return self._intended[path.name]
        if path.name in self._done:
            return self._done[path.name], None
        try:
            start, end = json.loads(_record_of(path).read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0, None
        return int(start), int(end)

    def _deliver(self, tenant_id: str, all_found: list[TenantRecords]) -> OpenKcmError | None:
        try:
            with self._database.tenant_tx(tenant_id) as tx:
                tx.audit.append_all([event for found in all_found for event in found.events])
                for found in all_found:
                    tx.usage.add(found.usage, found.batch_id)
                seen = sorted(set().union(*(found.seen for found in all_found)))
                if seen:
                    tx.services.seen(seen, max(found.last_at for found in all_found))
        except DatabaseUnavailable:
            raise
        except OpenKcmError as refused:
            self.totals.refusals[tenant_id] += 1
            if self.totals.refusals[tenant_id] < _REFUSALS_BORNE:
                return refused
            self._set_aside(tenant_id, all_found, refused)
        self.totals.refusals.pop(tenant_id, None)
        return None

    def _set_aside(self, tenant_id: str, all_found: list[TenantRecords], refused: OpenKcmError) -> None:
        """Keep what the database will not take where a person finds it, so that the others' records go on."""
        for found in all_found:
            with _private(self._folder / "undeliverable.jsonl", os.O_APPEND) as kept:
                kept.writelines(json.dumps([tenant_id, event.model_dump(mode="json")]) + "\n" for event in found.events)
            self.totals.set_aside += found.lines
            log.error("audit records set aside", tenant_id=tenant_id, code=refused.code, lines=found.lines)

    def _finish(self, batch: _Batch) -> None:
        self._done[batch.path.name] = batch.end
        del self._intended[batch.path.name]
        if batch.last:
            batch.path.unlink()
            _record_of(batch.path).unlink(missing_ok=True)
            del self._done[batch.path.name]


def _ended(path: Path) -> bool:
    """Whether the writer of a file has closed it or died: its lock is gone."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _record_of(path: Path) -> Path:
    return path.with_suffix(".range")


def _put_on_record(path: Path, start: int, end: int) -> None:
    """Write the range of a batch beside its file, whole or not at all."""
    draft = path.with_suffix(".range.new")
    with suppress(FileNotFoundError):
        draft.unlink()
    with _private(draft, os.O_EXCL) as file:
        file.write(json.dumps([start, end]))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(_record_of(path))


def _private(path: Path, how: int) -> TextIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600), "w", encoding="utf-8")
