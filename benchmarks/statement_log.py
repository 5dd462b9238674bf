"""What PostgreSQL was sent, message by message, from its own log: what the floor replays and is counted by."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from benchmarks.stack import Stack
from config.secrets import Role
from database.postgres.access import login
from devstack.servers.postgres import PostgresServer

_ROLES = {login(role): role for role in (Role.WORKER, Role.MARKETPLACE)}
_ENTRY = re.compile(r"\S+ \S+ \S+ \[(\d+)\] (?:\S+ \S+ )?([A-Z]+):  (.*)", re.DOTALL)
_SENT = re.compile(r"(statement|execute [^:]*): (.*)", re.DOTALL)
_VALUE = re.compile(r"\$\d+ = (?:NULL|'((?:[^']|'')*)')", re.DOTALL)


@dataclass(frozen=True)
class Message:
    """One message of a session. `values` is None in the simple protocol; `refused` when PostgreSQL answered ERROR."""

    session: int
    text: str
    values: tuple[bytes | None, ...] | None = None
    refused: bool = False


class StatementLog:
    """Turns the logging of the two roles' statements on and off; to be used while nothing is being measured."""

    def __init__(self, stack: Stack) -> None:
        postgres = PostgresServer(stack.settings.state_dir, stack.settings.postgres_port)
        self._file = postgres.log_file
        # From another database, so that what is asked here is in no statistics of the product's.
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
        """Return the messages in that part of the log."""
        with self._file.open("rb") as file:
            file.seek(start)
            return _parse(file.read(end - start).decode("utf-8", "replace"))

    def roles(self) -> dict[int, Role]:
        """Return whose each open session is."""
        rows = self.administrator.execute(
            "select pid, usename from pg_stat_activity where usename = any(%s)", [list(_ROLES)]
        )
        return {pid: _ROLES[name] for pid, name in rows}

    def _set(self, what: str) -> None:
        for role in _ROLES:
            self.administrator.execute(
                sql.SQL("alter role {} set log_statement = {}").format(sql.Identifier(role), sql.Literal(what))
            )
        # A role's setting is read when a session begins; the product's pools open new ones by themselves.
        self.administrator.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = any(%s)", [list(_ROLES)]
        )


def _parse(log: str) -> list[Message]:
    messages: list[Message] = []
    newest: dict[int, int] = {}
    # An entry's further lines begin with a tab.
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
