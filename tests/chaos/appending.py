"""Processes that write audit records for many tenants until they are killed, and what was acknowledged to each.

Run as `python -m tests.chaos.appending LAIR`, a JSON file of `Lair`. It forks a process for each line it reads, `ROLE
NUMBER`, and answers with its pid, so that modules are imported once.

A ledger records what is about to be written and what was acknowledged. Each line is one write, so a kill leaves it
whole or absent. A restarted process reads its ledger and first repeats the write that was not acknowledged.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from core.errors.platform import DatabaseUnavailable
from core.services import CryptoOperation
from crypto_service.audit.shipper import AuditShipper
from crypto_service.audit.wal import WriteAheadLog
from crypto_service.interfaces import AuditEntry
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent, AuditName

APPENDER, JOURNAL, DELIVERY = "appender", "journal", "delivery"
SERVICE = "orders"
_MOST = 40
"""Records in one call: between one and so many."""
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Lair:
    """Where everything is; `credentials` are password and context key by role."""

    url: str
    credentials: dict[str, tuple[str, str]]
    tenants: tuple[str, ...]
    folder: str

    def database(self, role: str) -> Database:
        password, key = self.credentials[role]
        return Database(self.url, role, password, bytes.fromhex(key), max_size=2)

    def ledger(self, role: str, number: int) -> "Ledger":
        return Ledger(Path(self.folder) / f"{role}-{number}.ledger")

    @property
    def journals(self) -> Path:
        return Path(self.folder) / "journals"


@dataclass(frozen=True)
class Promise:
    """What was to be written of a tenant, and whether it was acknowledged."""

    tenant: str
    ids: tuple[str, ...]
    kept: bool


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def promises(self) -> list[Promise]:
        found: list[Promise] = []
        for line in self.path.read_text(encoding="ascii").splitlines() if self.path.exists() else []:
            said = json.loads(line)
            if said == "acknowledged":
                found[-1] = Promise(found[-1].tenant, found[-1].ids, kept=True)
            else:
                found.append(Promise(said[0], tuple(said[1:]), kept=False))
        return found

    def intend(self, tenant: str, ids: tuple[str, ...]) -> None:
        self._write([tenant, *ids])

    def acknowledge(self) -> None:
        self._write("acknowledged")

    def _write(self, said: Any) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, json.dumps(said).encode() + b"\n")
        os.close(file)


def append(lair: Lair, number: int) -> None:
    """Append through the pool, one by one or many at once, and again until it is acknowledged."""
    ledger, database, random = lair.ledger(APPENDER, number), lair.database("worker"), _random()
    known = ledger.promises()
    if known and not known[-1].kept:
        _append(database, known[-1])
        ledger.acknowledge()
    for ids in _ids(f"a{number}", len(known), random):
        promise = Promise(random.choice(lair.tenants), ids, kept=False)
        ledger.intend(promise.tenant, ids)
        _append(database, promise)
        ledger.acknowledge()


def _append(database: Database, promise: Promise) -> None:
    events = [_event(one) for one in promise.ids]
    while True:
        try:
            with database.tenant_tx(promise.tenant) as tx:
                if len(events) == 1:
                    tx.audit.append(events[0])
                else:
                    tx.audit.append_all(events)
        except DatabaseUnavailable:
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _event(event_id: str) -> AuditEvent:
    return AuditEvent(
        event_id=event_id,
        name=AuditName.TENANT_KEY_CREATED,
        actor_kind="system",
        actor="chaos",
        subject=event_id,
        outcome="success",
        correlation_id="chaos",
    )


def answer(lair: Lair, number: int) -> None:
    """Write journals as the crypto service does before it answers; who got no answer asks for something new."""
    ledger, random = lair.ledger(JOURNAL, number), _random()
    known = len(ledger.promises())

    async def serve() -> None:
        journal = WriteAheadLog(lair.journals)
        for ids in _ids(f"j{number}", known, random):
            tenant = random.choice(lair.tenants)
            ledger.intend(tenant, ids)
            await journal.write([AuditEntry(tenant, SERVICE, CryptoOperation.GET, one, "chaos") for one in ids])
            ledger.acknowledge()
            await asyncio.sleep(_PAUSE_SECONDS)  # or the disk would be full of it

    asyncio.run(serve())


def deliver(lair: Lair, _number: int) -> None:
    """Move journals to the streams until killed, or until SIGTERM and everything is there."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    AuditShipper(lair.journals, lair.database("crypto")).run(stop)


_JOBS = {APPENDER: append, JOURNAL: answer, DELIVERY: deliver}


def _ids(prefix: str, known: int, random: Random) -> Iterator[tuple[str, ...]]:
    while True:
        many = random.choice((1, random.randint(1, _MOST)))
        yield tuple(f"{prefix}-{known}-{one}" for one in range(many))
        known += 1


def _random() -> Random:
    return Random(time.time_ns())  # noqa: S311 - what is written, and for whom


def main() -> None:
    lair = Lair(**json.loads(Path(sys.argv[1]).read_text(encoding="ascii")))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes the dead away
    for line in sys.stdin:
        role, number = line.split()
        pid = os.fork()
        if pid == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what it logs is no answer of ours
            _JOBS[role](lair, int(number))
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
