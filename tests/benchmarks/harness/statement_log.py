"""Messages to PostgreSQL, read from its log: the input of the floor and of the counters."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from config.secrets import Role
from database.postgres.access import login
from devstack.servers.postgres import PostgresServer
from marketplace.db_executor import RETRY_SECONDS
from tests.benchmarks.harness.stack import Stack

_ROLES = {login(role): role for role in (Role.WORKER, Role.MARKETPLACE)}
_ENTRY = re.compile(r"\S+ \S+ \S+ \[(\d+)\] (?:\S+ \S+ )?([A-Z]+):  (.*)", re.DOTALL)
_SENT = re.compile(r"(statement|execute [^:]*): (.*)", re.DOTALL)
_VALUE = re.compile(r"\$\d+ = (?:NULL|'((?:[^']|'')*)')", re.DOTALL)
_DOWN_SECONDS = 2 * RETRY_SECONDS
"""Longer than the marketplace API rejects events after one of its transactions lost its session."""


@dataclass(frozen=True)
class Message:
    """One message of a session. `values` is None in the simple protocol; `refused` means an ERROR from PostgreSQL."""

    session: int
    text: str
    values: tuple[bytes | None, ...] | None = None
    refused: bool = False


class StatementLog:
    """Switches the logging of the two roles' statements on and off; not for use during a measurement."""

    def __init__(self, stack: Stack) -> None:
        postgres = PostgresServer(stack.settings.state_dir, stack.settings.postgres_port)
        self._file = postgres.log_file
        # In another database, so that these queries are not part of the product's statistics.
        self.administrator = psycopg.connect(postgres.admin_conninfo, dbname="postgres", autocommit=True)

    def close(self) -> None:
        self.administrator.close()

    @contextmanager
    def logging(self) -> Iterator[None]:
        self._set("all")
        yield
        self._set("none")

    def offset(self) -> int:
        return self._file.stat().st_size

    def between(self, start: int, end: int) -> list[Message]:
        """Return the messages in this part of the log."""
        with self._file.open("rb") as file:
            file.seek(start)
            return _parse(file.read(end - start).decode("utf-8", "replace"))

    def roles(self) -> dict[int, Role]:
        """Return the role of each open session."""
        rows = self.administrator.execute(
            "select pid, usename from pg_stat_activity where usename = any(%s)", [list(_ROLES)]
        )
        return {pid: _ROLES[name] for pid, name in rows}

    def _set(self, what: str) -> None:
        for role in _ROLES:
            self.administrator.execute(
                sql.SQL("alter role {} set log_statement = {}").format(sql.Identifier(role), sql.Literal(what))
            )
        # A role's setting is read at the start of a session; the product's pools open new sessions automatically.
        self.administrator.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = any(%s)", [list(_ROLES)]
        )
        time.sleep(_DOWN_SECONDS)


def _parse(log: str) -> list[Message]:
    messages: list[Message] = []
    newest: dict[int, int] = {}
    # Further lines of an entry start with a tab.
    for entry in filter(None, (_ENTRY.match(text.replace("\n\t", "\n")) for text in re.split(r"\n(?!\t)", log))):
        session, level, text = int(entry[1]), entry[2], entry[3]
        sent = _SENT.match(text) if level == "LOG" else None
        if sent is not None:
            newest[session] = len(messages)
            messages.append(Message(session, sent[2], None if sent[1] == "statement" else ()))
        elif level == "DETAIL" and text.lower().startswith("parameters:") and session in newest:
            values = tuple(
                None if value[1] is None else value[1].replace("''", "'").encode() for value in _VALUE.finditer(text)
            )
            messages[newest[session]] = replace(messages[newest[session]], values=values)
        elif level == "ERROR" and session in newest:
            messages[newest[session]] = replace(messages[newest[session]], refused=True)
    return messages
