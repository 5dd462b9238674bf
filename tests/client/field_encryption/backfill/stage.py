"""A backfill in this process, beside an application that is protected in the same process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from openkcm.contract.protected_fields import Mode
from openkcm.field_encryption.backfill.connection import Options
from openkcm.field_encryption.backfill.progress import TableProgress
from openkcm.field_encryption.backfill.run import BackfillRun
from openkcm.field_encryption.backfill.table_scan import Settings
from tests.client.field_encryption.stand import Stand

PATIENTS = """
CREATE TABLE patients (id bigint PRIMARY KEY, name text NOT NULL, diagnosis text, insurance varchar, photo bytea);
INSERT INTO patients SELECT n, 'name ' || n, 'diagnosis ' || n, 'A-' || n % 7, decode(lpad(to_hex(n), 8, '0'), 'hex')
    FROM generate_series(1, 250) n;
INSERT INTO patients VALUES (1000, 'no values', NULL, NULL, NULL), (1001, 'empty', '', '', '');
"""
FIELDS = (
    {"place": "public.patients", "field": "diagnosis", "plaintext_allowed": True},
    {"place": "public.patients", "field": "insurance", "mode": Mode.DETERMINISTIC, "plaintext_allowed": True},
    {"place": "public.patients", "field": "photo", "plaintext_allowed": True},
)
PLAIN = "SELECT id, name, diagnosis, insurance, encode(photo, 'hex') FROM patients ORDER BY id"


@dataclass
class Stage:
    stand: Stand
    stop: threading.Event = field(default_factory=threading.Event)

    def patients(self) -> list[tuple[Any, ...]]:
        """Create the table, protect three of its columns, and return its content."""
        self.stand.stored(PATIENTS)
        self.stand.protect(*FIELDS)
        return self.stand.stored(PLAIN)

    def run(self, update: Callable[[], None] = lambda: None, **changed: Any) -> BackfillRun:
        settings = {"batch": 40, "rows_per_second": 100_000.0, "undo": False}
        settings |= {name: changed.pop(name) for name in list(changed) if name in settings}
        options = {"conninfo": self.stand.conninfo, "settings": Settings(**settings), "wait_seconds": 20.0} | changed
        return BackfillRun(Options(**options), self.stand.protection, self.stand.keys, update, self.stop)

    def backfill(self, **changed: Any) -> list[TableProgress]:
        run = self.run(**changed)
        run.run()
        return run.tables

    def read(self, query: str) -> list[tuple[Any, ...]]:
        """Query as the protected application."""
        with self.stand.hooked(), self.stand.connect() as connection:
            return connection.execute(query).fetchall()

    @contextmanager
    def beside(self, **changed: Any) -> Iterator[BackfillRun]:
        """Run a backfill in a thread, which must have succeeded at the end of the block."""
        run, failures = self.run(**changed), list[BaseException]()

        def work() -> None:
            try:
                run.run()
            except BaseException as failed:  # noqa: BLE001 - reported by the test
                failures.append(failed)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield run
        finally:
            thread.join(120)
        assert not thread.is_alive()
        assert [repr(one) for one in failures] == []
