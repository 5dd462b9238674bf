"""Moves the journals of all processes, living and dead, into PostgreSQL: audit streams, usage, last seen.

One process does it for all. Exactly once, whatever is killed when: a batch is a plan that is on record before it is
delivered (see `plans`), so after a crash the same batch is delivered again, with the same ids, and what the database
has of it already adds nothing.
"""

import fcntl
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import structlog

from core.errors.platform import DatabaseUnavailable
from crypto.journal import waiting_bytes
from crypto.journal_lines import Line, decode
from crypto.plans import Plan, Plans
from crypto.records import Piece, TenantRecords, records
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
class Delivered:
    """Totals of this process, for metrics."""

    lines: int = 0
    set_aside: int = 0
    damaged: int = 0
    waiting_bytes: int = 0
    failing_since: float = 0.0
    refusals: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


class Delivery:
    """MUST be the only one in its folder; `run` waits for that."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder, self._database = folder, database
        self._plans: Plans | None = None
        self.totals = Delivered()

    def run(self, stop: Event) -> None:
        """Deliver until `stop`, then what is left: what was answered before is in the streams after."""
        with self._alone(stop) as mine:
            while mine and not stop.is_set():
                began = time.monotonic()
                if not self._try_once():
                    stop.wait(max(0.0, _TICK_SECONDS - (time.monotonic() - began)))
            while mine and self._try_once():
                pass

    def once(self) -> Plan | None:
        """Deliver one batch and return its plan; None when there was nothing.

        Raises: DatabaseUnavailable, and DatabaseRefused while a refusal is still borne; nothing is lost by either.
        """
        if self._plans is None:
            self._plans = Plans(self._folder)
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

    def _pieces(self, plans: Plans, plan: Plan) -> Iterator[Piece]:
        for name, (start, end) in plan.parts.items():
            data = plans.read(name, start, end)
            lines = [line for line in decode(data, start) if isinstance(line, Line)]
            damaged = data.count(b"\n") - len(lines)
            if damaged:
                self.totals.damaged += damaged
                log.error("journal lines damaged", journal=name, lines=damaged)
            yield Piece(name, lines)

    def _deliver(self, tenant_id: str, batch_id: str, found: TenantRecords) -> OpenKcmError | None:
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

    def _set_aside(self, tenant_id: str, found: TenantRecords, refused: OpenKcmError) -> None:
        """Keep what the database will not take where a person finds it, so that the others' records go on."""
        file = os.open(self._folder / "undeliverable.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as kept:
            kept.writelines(json.dumps([tenant_id, event.model_dump(mode="json")]) + "\n" for event in found.events)
        self.totals.set_aside += found.lines
        log.error("audit records set aside", tenant_id=tenant_id, code=refused.code, lines=found.lines)
