"""Processes that write audit records for many tenants until they are killed, with a ledger of acknowledged writes.

Run as `python -m tests.chaos.audit.appending WORKSPACE`, a JSON file of `Workspace`. It forks a process for each input
line, `ROLE NUMBER`, and prints its pid, so that modules are imported only once.

A ledger records each write before it starts, and its acknowledgement. Each line is one write, so after a kill it is
complete or absent. A restarted process reads its ledger and first repeats the write that was not acknowledged.
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
"""The maximum of records in one call."""
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Workspace:
    """The configuration of all processes; `credentials` maps a role to password and context key."""

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
class Write:
    """A write for a tenant, and whether it was acknowledged."""

    tenant: str
    ids: tuple[str, ...]
    acknowledged: bool


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path

    def writes(self) -> list[Write]:
        found: list[Write] = []
        for line in self.path.read_text(encoding="ascii").splitlines() if self.path.exists() else []:
            said = json.loads(line)
            if said == "acknowledged":
                found[-1] = Write(found[-1].tenant, found[-1].ids, acknowledged=True)
            else:
                found.append(Write(said[0], tuple(said[1:]), acknowledged=False))
        return found

    def intend(self, tenant: str, ids: tuple[str, ...]) -> None:
        self._write([tenant, *ids])

    def acknowledge(self) -> None:
        self._write("acknowledged")

    def _write(self, said: Any) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, json.dumps(said).encode() + b"\n")
        os.close(file)


def append(workspace: Workspace, number: int) -> None:
    """Append through the connection pool, one or many records per call, and repeat until acknowledged."""
    ledger, database, random = workspace.ledger(APPENDER, number), workspace.database("worker"), _random()
    known = ledger.writes()
    if known and not known[-1].acknowledged:
        _append(database, known[-1])
        ledger.acknowledge()
    for ids in _ids(f"a{number}", len(known), random):
        write = Write(random.choice(workspace.tenants), ids, acknowledged=False)
        ledger.intend(write.tenant, ids)
        _append(database, write)
        ledger.acknowledge()


def _append(database: Database, write: Write) -> None:
    events = [_event(one) for one in write.ids]
    while True:
        try:
            with database.tenant_tx(write.tenant) as tx:
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


def answer(workspace: Workspace, number: int) -> None:
    """Write audit entries as the crypto service does before a response; an unacknowledged write is not repeated."""
    ledger, random = workspace.ledger(JOURNAL, number), _random()
    known = len(ledger.writes())

    async def serve() -> None:
        journal = WriteAheadLog(workspace.journals)
        for ids in _ids(f"j{number}", known, random):
            tenant = random.choice(workspace.tenants)
            ledger.intend(tenant, ids)
            await journal.write([AuditEntry(tenant, SERVICE, CryptoOperation.GET, one, "chaos") for one in ids])
            ledger.acknowledge()
            await asyncio.sleep(_PAUSE_SECONDS)  # limits the size of the files

    asyncio.run(serve())


def deliver(workspace: Workspace, _number: int) -> None:
    """Ship the logs to the streams until killed, or until SIGTERM and everything is shipped."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    AuditShipper(workspace.journals, workspace.database("crypto")).run(stop)


_JOBS = {APPENDER: append, JOURNAL: answer, DELIVERY: deliver}


def _ids(prefix: str, known: int, random: Random) -> Iterator[tuple[str, ...]]:
    while True:
        many = random.choice((1, random.randint(1, _MOST)))
        yield tuple(f"{prefix}-{known}-{one}" for one in range(many))
        known += 1


def _random() -> Random:
    return Random(time.time_ns())  # noqa: S311 - test data


def main() -> None:
    workspace = Workspace(**json.loads(Path(sys.argv[1]).read_text(encoding="ascii")))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps children
    for line in sys.stdin:
        role, number = line.split()
        pid = os.fork()
        if pid == 0:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # its log must not mix with the pids
            _JOBS[role](workspace, int(number))
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
