"""`openkcm backfill`: encrypt the values that were stored before a column was protected, and show the progress.

It runs at the customer and connects to the customer's database and the crypto service only. Neither the data nor the
password of the database ever reaches the platform, so this is no workflow. Its state is the data itself.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from openkcm.cli import output
from openkcm.contract.protected_fields import OBEYED_SECONDS, Backfill
from openkcm.field_encryption.errors import BackfillRefused, BackfillStopped, BackfillUnfinished, RunRefused

if TYPE_CHECKING:
    from openkcm.field_encryption.backfill.progress import TableProgress
    from openkcm.field_encryption.backfill.run import BackfillRun


_TERMINAL, _LINES = 0.2, 5.0
"""Seconds between two updates: on a terminal, and for log lines."""


class Watch:
    """Shows the progress on standard error at intervals."""

    def __init__(self, tables: "Callable[[], Sequence[TableProgress]]") -> None:
        self._tables = tables
        self._status: Status | None = None
        self._shown_at = 0.0
        self._marks: dict[str, tuple[float, int]] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        with output.progress.status("reading the database") as self._status:
            yield

    def update(self) -> None:
        now = time.monotonic()
        terminal = output.progress.is_terminal
        if self._status is None or now - self._shown_at < (_TERMINAL if terminal else _LINES):
            return
        self._shown_at = now
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


def progress_document(
    tables: "Sequence[TableProgress]", notes: Sequence[str], *, undo: bool, dry_run: bool
) -> dict[str, Any]:
    """Return the result as JSON types."""
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
                        "plaintext_allowed": column.column.plaintext_allowed,
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
                Text(f"{one['table']}: the database rejected {count} rows, SQLSTATE {sqlstate}"), soft_wrap=True
            )
        for column in one["columns"]:
            name = f"{one['table']}.{column['column']}"
            if column["unopened"]:
                text = (
                    f"{name}: {column['unopened']} values look like ciphertext but cannot be decrypted;"
                    " this run did not change them"
                )
                console.print(Text(text), soft_wrap=True)
    if shown["finished"]:
        console.print(Text(_finished(shown, undo=undo)), soft_wrap=True)


def _finished(shown: Mapping[str, Any], *, undo: bool) -> str:
    if undo:
        return "Every value was decrypted and read back. Remove the columns from the list; `openkcm run` is not needed."
    allowed = [
        f"{one['table']}.{column['column']}"
        for one in shown["tables"]
        for column in one["columns"]
        if column["plaintext_allowed"]
    ]
    done = "Every value was read back: all are encrypted and can be decrypted."
    if not allowed:
        return done
    return (
        f"{done} Plain values need not be allowed any more in {', '.join(allowed)}: disable this on the Services"
        " page, or with `openkcmctl service protect-field … --no-plaintext-allowed`."
    )


_PASSWORD_HINT = "use a service file or a password file, or set OPENKCM_BACKFILL_DATABASE"  # noqa: S105 - no password


def register(app: typer.Typer) -> None:
    app.command("backfill")(backfill)


def backfill(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    *,
    folder: Annotated[
        Path,
        typer.Option(help="Folder written by `service connect --out`", envvar="OPENKCM_RUN_FOLDER"),
    ] = Path("openkcm"),
    database: Annotated[
        str,
        typer.Option(
            help="Connection string of the database, such as service=clinic, without a password",
            envvar="OPENKCM_BACKFILL_DATABASE",
            show_envvar=True,
        ),
    ] = "",
    table: Annotated[str, typer.Option(help="Only this table: schema.table")] = "",
    rows_per_second: Annotated[
        float, typer.Option(min=0.1, max=100_000, help="Maximum number of rows to change per second")
    ] = 500.0,
    batch: Annotated[int, typer.Option(min=1, max=5000, help="Maximum number of rows in one transaction")] = 100,
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for an unavailable database or crypto service")
    ] = 600.0,
    key_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds for which an unwrapped column key is used")
    ] = 60.0,
    undo: Annotated[bool, typer.Option("--undo", help="Decrypt instead, to end the protection")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the rows to change and change nothing")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Encrypt values that were stored before their columns were protected; a new run resumes."""
    from openkcm.field_encryption.backfill.connection import Options, holds_password  # noqa: PLC0415 - the same
    from openkcm.field_encryption.backfill.progress import ProgressReporter  # noqa: PLC0415 - the same
    from openkcm.field_encryption.backfill.run import BackfillRun  # noqa: PLC0415 - the same
    from openkcm.field_encryption.backfill.table_scan import Settings  # noqa: PLC0415 - the same
    from openkcm.field_encryption.protected_fields import ServiceProtection  # noqa: PLC0415 - the same
    from openkcm.field_encryption.service_client import CryptoService, ServiceKeySource  # noqa: PLC0415 - the same
    from openkcm.sdk.errors import CertificateUnusable  # noqa: PLC0415 - its import would slow every other command
    from openkcm.sdk.identity import Identity  # noqa: PLC0415 - the same

    given = context.get_parameter_source("database")
    if given is not None and given.name == "COMMANDLINE" and holds_password(database):
        raise BackfillRefused("a password in --database is visible to all users of this machine", _PASSWORD_HINT)
    try:
        Identity.from_folder(folder)
    except CertificateUnusable as refused:
        raise RunRefused(f"{folder} is not the folder of a connected service: {refused.detail}") from None
    options = Options(database, Settings(batch, rows_per_second, undo), table, dry_run, wait_seconds, key_seconds)
    stop = threading.Event()
    watch = Watch(lambda: run.tables)
    service = CryptoService(folder)
    protection = ServiceProtection(service, OBEYED_SECONDS)
    run = BackfillRun(options, protection, ServiceKeySource(service), watch.update, stop)
    failed: BackfillStopped | None = None
    with _stop_on_signal(stop), watch.shown(), ProgressReporter(service, lambda: [] if dry_run else run.tables):
        try:
            run.run()
        except BackfillStopped as stopped:
            failed = stopped
        finally:
            protection.close()
    _answer(run, failed, undo=undo, dry_run=dry_run, as_json=as_json)


def _answer(run: "BackfillRun", failed: BackfillStopped | None, *, undo: bool, dry_run: bool, as_json: bool) -> None:
    document = progress_document(run.tables, run.notes, undo=undo, dry_run=dry_run)

    def show(console: Console) -> None:
        draw(console, document)

    refusal: BackfillStopped | BackfillUnfinished | None = failed
    if failed is None and not dry_run and not all(one.is_whole for one in run.tables):
        refusal = BackfillUnfinished()
    if refusal is None:
        output.answer(document, as_json=as_json, show=show)
    else:
        output.answer_refused(document, refusal.code, refusal.message, refusal.hint, as_json=as_json, show=show)


@contextmanager
def _stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """Stop after the present batch at the first SIGINT or SIGTERM, and at once at the second, which is as safe."""

    def stop_once(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, stop_once) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
