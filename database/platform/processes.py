"""Reports of the running processes: what each measures, replaced every second (table `process_report`)."""

import os
import socket
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from core.tenants.status import ProcessKind
from database.connection.database import Database
from database.postgres.access import PLATFORM

REPORT_SECONDS = 1.0
"""The interval of the reports of a process."""
CALL_SECONDS = 2.0
"""The deadline of a statement that reads or writes what was measured."""


class ProcessReport(NamedTuple):
    """The newest report of an instance; `age` is in seconds by the clock of the database.

    `key_server` is `ok` or the code of the last failure, None from a shipper; `faults` are codes of other failures.
    `watches` are the parts of root key monitoring that a worker carries out (`watch_name`). A crypto process has
    applied the changes of every transaction before `applied`.
    """

    process: ProcessKind
    instance: str
    started_at: datetime
    age: float
    key_server: str | None
    faults: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    applied: int | None = None

    @property
    def host(self) -> str:
        """The host, or the container, of the instance."""
        return self.instance.partition("/")[0]


def instance_name() -> str:
    """Return the name of this process among all instances: `host/pid`."""
    return f"{socket.gethostname()[:100]}/{os.getpid()}"


def watch_name(region: str, shard: int, shards: int) -> str:
    """Return the name of one part of root key monitoring."""
    return f"{region}/{shard}/{shards}"


def process_reports(database: Database) -> Sequence[ProcessReport]:
    """Return the reports of all instances (dashboard, operator); raises DatabaseUnavailable."""
    with database.raw_tx(PLATFORM, call_seconds=CALL_SECONDS) as connection:
        return read_reports(connection)


def read_reports(connection: Connection[TupleRow]) -> Sequence[ProcessReport]:
    """Return the same in a transaction that is open; every tenant may read them, for they name no tenant."""
    rows = connection.execute(
        "select process, instance, started_at, age, key_server, faults, watches, applied::text"
        " from okcm.process_reports()"
    )
    return [
        ProcessReport(
            ProcessKind(process),
            instance,
            started_at,
            max(age, 0.0),
            key_server,
            tuple(faults),
            tuple(watches),
            None if applied is None else int(applied),
        )
        for process, instance, started_at, age, key_server, faults, watches, applied in rows
    ]


class ProcessReporter(NamedTuple):
    """Writes the report of one instance.

    Raises:
        DatabaseUnavailable: nothing was written; the next report contains everything.
    """

    database: Database
    process: ProcessKind
    instance: str
    started_at: datetime

    def write(
        self,
        key_server: str | None,
        *,
        faults: Sequence[str] = (),
        watches: Sequence[str] = (),
        applied: int | None = None,
    ) -> None:
        """Replace the report of this instance."""
        with self.database.raw_tx(PLATFORM, call_seconds=CALL_SECONDS) as connection:
            connection.execute(
                "select okcm.report_process(%s, %s, %s, %s, %s, %s, %s::xid8)",
                [
                    self.process.value,
                    self.instance,
                    self.started_at,
                    key_server,
                    list(faults),
                    list(watches),
                    None if applied is None else str(applied),
                ],
            )

    def withdraw(self) -> None:
        """Delete the report: the process stops on purpose."""
        with self.database.raw_tx(PLATFORM, call_seconds=CALL_SECONDS) as connection:
            connection.execute("select okcm.withdraw_report(%s, %s)", [self.process.value, self.instance])
