"""Moves the journals of all processes, living and dead, into PostgreSQL: audit streams, usage, last seen.

One process does it for all. Exactly once, whatever is killed when: a batch is a plan that is on record before it is
delivered (see `plans`), so after a crash the same batch is delivered again, with the same ids, and what the database
has of it already adds nothing.

What delivery means to deliver next, on record before it begins.

A plan names parts of journal files and the id under which their sums go into the database. After a crash the same plan
is delivered again; were it put together anew, what has come in meanwhile would change the sums and count twice.
"""

import fcntl
import json
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import structlog

from core.errors.platform import DatabaseUnavailable
from crypto_service.audit.events import TenantBatch, WalSlice, records
from crypto_service.audit.wal import SUFFIX, WalRecord, decode, waiting_bytes, whole_part
from database.connection.database import Database
from openkcm.errors import OpenKcmError

_TICK_SECONDS = 0.6
"""From one batch to the next: what is answered is in the streams within a second, and uses are summed up meanwhile."""
_AT_ONCE = 1000
"""Records in one statement, which ends within the database's time limit also when it is busy."""
_REFUSALS_BORNE = 30
"""How often a tenant's records may be refused, a tick apart, before they are set aside for a person."""

log = structlog.get_logger()


@dataclass(slots=True)
class ShipperStats:
    """Totals of this process, for metrics."""

    lines: int = 0
    set_aside: int = 0
    damaged: int = 0
    waiting_bytes: int = 0
    failing_since: float = 0.0
    refusals: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True, slots=True)
class ShippingBatch:
    """`parts` is file name → where the part begins and ends."""

    batch_id: str
    parts: dict[str, tuple[int, int]]
    ended: frozenset[str] = frozenset()
    """The files that end with their part, or have ended before: they may go once it is delivered."""
    full: bool = field(default=False, compare=False)
    """Whether more was waiting than a plan may hold."""


class ShipperCheckpoint:
    def __init__(self, folder: Path) -> None:
        """Take up what an earlier process has left."""
        self._folder = folder
        self._done: dict[str, int] = {}
        self._plan: ShippingBatch | None = None
        with suppress(FileNotFoundError):
            left = json.loads((folder / _FILE).read_text(encoding="ascii"))
            self._done = {str(name): int(end) for name, end in left["done"].items()}
            parts = {str(name): (int(start), int(end)) for name, (start, end) in left["parts"].items()}
            self._plan = ShippingBatch(str(left["batch_id"]), parts) if parts else None

    def next(self) -> ShippingBatch | None:
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

    def _make(self) -> ShippingBatch | None:
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
        return ShippingBatch(_new_id(), parts, frozenset(ended), full) if parts or ended else None

    def _put_on_record(self, plan: ShippingBatch) -> None:
        draft = self._folder / f".{_FILE}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(json.dumps({"done": self._done, "batch_id": plan.batch_id, "parts": plan.parts}).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / _FILE)


class AuditShipper:
    """MUST be the only one in its folder; `run` waits for that."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder, self._database = folder, database
        self._plans: ShipperCheckpoint | None = None
        self.totals = ShipperStats()

    def run(self, stop: Event) -> None:
        """Deliver until `stop`, then what is left: what was answered before is in the streams after."""
        with self._alone(stop) as mine:
            while mine and not stop.is_set():
                began = time.monotonic()
                if not self._try_once():
                    stop.wait(max(0.0, _TICK_SECONDS - (time.monotonic() - began)))
            while mine and self._try_once():
                pass

    def once(self) -> ShippingBatch | None:
        """Deliver one batch and return its plan; None when there was nothing.

        Raises: DatabaseUnavailable, and DatabaseRefused while a refusal is still borne; nothing is lost by either.
        """
        if self._plans is None:
            self._plans = ShipperCheckpoint(self._folder)
        plan = self._plans.next()
        if plan is None:
            return None
        by_tenant = records(plan.batch_id, self._pieces(self._plans, plan))
        borne: OpenKcmError | None = None
        for tenant_id, found in by_tenant.items():
            borne = self._deliver(tenant_id, plan.batch_id, found) or borne
        if borne is not None:
            raise borne
        self._plans.delivered()
        self.totals.lines += sum(found.lines for found in by_tenant.values())
        return plan

    def _try_once(self) -> bool:
        """Return whether more is waiting than one batch could take."""
        try:
            plan = self.once()
        except OpenKcmError as failed:
            self.totals.failing_since = self.totals.failing_since or time.time()
            log.warning("audit waits for the database", code=failed.code, bytes=waiting_bytes(self._folder))
            return False
        self.totals.failing_since = 0.0
        self.totals.waiting_bytes = waiting_bytes(self._folder)
        return plan is not None and plan.full

    @contextmanager
    def _alone(self, stop: Event) -> Iterator[bool]:
        """Hold the folder's lock, waiting for whoever has it; give False when it is not ours by the time of `stop`."""
        with (self._folder / "delivery.lock").open("w", encoding="utf-8") as lock:
            mine = False
            while not mine and not stop.is_set():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    stop.wait(_TICK_SECONDS)
                else:
                    mine = True
            yield mine

    def _pieces(self, plans: ShipperCheckpoint, plan: ShippingBatch) -> Iterator[WalSlice]:
        for name, (start, end) in plan.parts.items():
            data = plans.read(name, start, end)
            lines = [line for line in decode(data, start) if isinstance(line, WalRecord)]
            damaged = data.count(b"\n") - len(lines)
            if damaged:
                self.totals.damaged += damaged
                log.error("journal lines damaged", journal=name, lines=damaged)
            yield WalSlice(name, lines)

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
            if self.totals.refusals[tenant_id] < _REFUSALS_BORNE:
                return refused
            self._set_aside(tenant_id, found, refused)
        self.totals.refusals.pop(tenant_id, None)
        return None

    def _set_aside(self, tenant_id: str, found: TenantBatch, refused: OpenKcmError) -> None:
        """Keep what the database will not take where a person finds it, so that the others' records go on."""
        file = os.open(self._folder / "undeliverable.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as kept:
            kept.writelines(json.dumps([tenant_id, event.model_dump(mode="json")]) + "\n" for event in found.events)
        self.totals.set_aside += found.lines
        log.error("audit records set aside", tenant_id=tenant_id, code=refused.code, lines=found.lines)


_FILE = "delivery.json"
_LARGEST = 1024 * 1024
"""Bytes of a plan; what is beyond comes with the next."""


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
