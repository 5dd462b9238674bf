"""What `openkcm backfill` shows: how far it is while it runs, and what came of it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from cli import output
from tenancy.protection import Backfill

if TYPE_CHECKING:
    from hooks.postgresql.backfill.progress import TableProgress

_TERMINAL, _LINES = 0.2, 5.0
"""Seconds between two looks: on a terminal, and where lines are kept."""


class Watch:
    """Tells on standard error how far it is, now and then."""

    def __init__(self, tables: "Callable[[], Sequence[TableProgress]]") -> None:
        self._tables = tables
        self._status: Status | None = None
        self._told = 0.0
        self._marks: dict[str, tuple[float, int]] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        with output.progress.status("looking at the database") as self._status:
            yield

    def look(self) -> None:
        now = time.monotonic()
        terminal = output.progress.is_terminal
        if self._status is None or now - self._told < (_TERMINAL if terminal else _LINES):
            return
        self._told = now
        texts = [self._text(one, now) for one in self._tables() if one.state in _AT_WORK]
        if texts:
            self._status.update(Text("; ".join(texts)))
            if not terminal:
                output.progress.print("; ".join(texts), highlight=False, markup=False, soft_wrap=True)

    def _text(self, progress: "TableProgress", now: float) -> str:
        name = progress.table.full_name
        if progress.state is Backfill.WAITING:
            return f"{name}: waiting ({progress.waits_for})"
        begun, before = self._marks.setdefault(name, (now, progress.rows))
        rate = (progress.rows - before) / (now - begun) if now > begun else 0.0
        left = max((one.left for one in progress.columns.values()), default=0)
        time_left = f", {timedelta(seconds=round(left / rate))} left" if rate else ""
        return f"{name}: {progress.rows} rows done, {left} to do, {rate:.0f} a second{time_left}"


_AT_WORK = (Backfill.RUNNING, Backfill.UNDOING, Backfill.WAITING)


def document(tables: "Sequence[TableProgress]", notes: Sequence[str], *, undo: bool, dry_run: bool) -> dict[str, Any]:
    """Return the result as JSON's types."""
    return {
        "undo": undo,
        "dry_run": dry_run,
        "finished": not dry_run and all(one.is_whole for one in tables),
        "tables": [
            {
                "table": one.table.full_name,
                "state": None if one.state is None else one.state.value,
                "rows": one.rows,
                "refused": dict(one.refused),
                "columns": [
                    {
                        "column": name,
                        "mode": column.column.mode,
                        "done": column.done,
                        "left": column.left,
                        "read_back": column.read_back,
                        "unopened": column.unopened,
                        "plain_allowed": column.column.plain_allowed,
                    }
                    for name, column in one.columns.items()
                ],
            }
            for one in tables
        ],
        "notes": list(notes),
    }


def draw(console: Console, shown: Mapping[str, Any]) -> None:
    undo, dry_run = shown["undo"], shown["dry_run"]
    table = Table(
        "column", "mode", "to do" if dry_run else "done", *(() if dry_run else ("left", "read back", "state"))
    )
    for one in shown["tables"]:
        for column in one["columns"]:
            name = f"{one['table']}.{column['column']}"
            counts = ("left",) if dry_run else ("done", "left", "read_back")
            state = () if dry_run else (one["state"] or "not begun",)
            table.add_row(*map(Text, (name, column["mode"], *(str(column[count]) for count in counts), *state)))
    console.print(table)
    for note in shown["notes"] if dry_run else ():
        console.print(Text(f"note  {note}"), soft_wrap=True)
    for one in shown["tables"]:
        for sqlstate, count in one["refused"].items():
            console.print(
                Text(f"{one['table']}: the database refused {count} rows, SQLSTATE {sqlstate}"), soft_wrap=True
            )
        for column in one["columns"]:
            name = f"{one['table']}.{column['column']}"
            if column["unopened"]:
                text = f"{name}: {column['unopened']} values look like ciphertext and do not open; they were left alone"
                console.print(Text(text), soft_wrap=True)
    if shown["finished"]:
        console.print(Text(_finished(shown, undo=undo)), soft_wrap=True)


def _finished(shown: Mapping[str, Any], *, undo: bool) -> str:
    if undo:
        return (
            "Every value was decrypted and read back. Take the columns off the list, and `openkcm run` is not needed."
        )
    allowed = [
        f"{one['table']}.{column['column']}"
        for one in shown["tables"]
        for column in one["columns"]
        if column["plain_allowed"]
    ]
    done = "Every value was read back: all are encrypted and open."
    if not allowed:
        return done
    return (
        f"{done} Plain values need not be allowed any more in {', '.join(allowed)}: switch that off on the Services"
        " page, or with `openkcm protection protect … --no-plain-allowed`."
    )
