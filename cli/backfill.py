"""`openkcm backfill`: encrypt the rows from before a column was protected, at the customer.

It reaches the customer's database and the crypto service and nothing else of OpenKCM: neither the data nor the
password of the database ever comes to the platform, which is why no workflow does this. Its state is the data.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli import backfill_view, output
from tenancy.hook_errors import BackfillRefused, BackfillStopped, BackfillUnfinished, RunRefused
from tenancy.protection import OBEYED_SECONDS

if TYPE_CHECKING:
    from hooks.postgresql.backfill.run import BackfillRun

_PASSWORD_HINT = "name it in a service file or a password file, or give the whole in KCM_BACKFILL_DATABASE"  # noqa: S105 - no password


def register(app: typer.Typer) -> None:
    app.command("backfill")(backfill)


def backfill(  # noqa: PLR0913 - one parameter an option
    context: typer.Context,
    *,
    folder: Annotated[
        Path,
        typer.Option(help="The folder that `service connect --out` wrote.", envvar="KCM_RUN_FOLDER"),
    ] = Path("openkcm"),
    database: Annotated[
        str,
        typer.Option(
            help="Connection string of the database, such as service=clinic; without a password.",
            envvar="KCM_BACKFILL_DATABASE",
            show_envvar=True,
        ),
    ] = "",
    table: Annotated[str, typer.Option(help="This table alone: schema.table.")] = "",
    rows_per_second: Annotated[
        float, typer.Option(min=0.1, max=100_000, help="Rows to change in a second, at most.")
    ] = 500.0,
    batch: Annotated[int, typer.Option(min=1, max=5000, help="Rows in one transaction, at most.")] = 100,
    wait_seconds: Annotated[
        float, typer.Option(min=0, help="How long to wait for a database or a crypto service that is away.")
    ] = 600.0,
    key_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="How long an opened column key is used without asking again.")
    ] = 60.0,
    undo: Annotated[bool, typer.Option("--undo", help="Decrypt instead, to leave.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is to do and change nothing.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Encrypt what stood in protected columns before they were protected; run again, it goes on where it was."""
    from crypto.client_errors import CertificateUnusable  # noqa: PLC0415 - loading it would slow every other command
    from crypto.client_identity import Identity  # noqa: PLC0415 - the same
    from hooks.crypto_service import CryptoService  # noqa: PLC0415 - the same
    from hooks.key_service import ServiceKeySource  # noqa: PLC0415 - the same
    from hooks.postgresql.backfill.patience import Options, holds_password  # noqa: PLC0415 - the same
    from hooks.postgresql.backfill.run import BackfillRun  # noqa: PLC0415 - the same
    from hooks.postgresql.backfill.table import Settings  # noqa: PLC0415 - the same
    from hooks.postgresql.backfill.telling import Telling  # noqa: PLC0415 - the same
    from hooks.protection import ServiceProtection  # noqa: PLC0415 - the same

    given = context.get_parameter_source("database")
    if given is not None and given.name == "COMMANDLINE" and holds_password(database):
        raise BackfillRefused("a password in --database can be seen by everybody on this machine", _PASSWORD_HINT)
    try:
        Identity.from_folder(folder)
    except CertificateUnusable as refused:
        raise RunRefused(f"{folder} is not the folder of a connected service: {refused.detail}") from None
    options = Options(database, Settings(batch, rows_per_second, undo), table, dry_run, wait_seconds, key_seconds)
    stop = threading.Event()
    watch = backfill_view.Watch(lambda: run.tables)
    service = CryptoService(folder)
    protection = ServiceProtection(service, OBEYED_SECONDS)
    run = BackfillRun(options, protection, ServiceKeySource(service), watch.look, stop)
    failed: BackfillStopped | None = None
    with _told_to_stop(stop), watch.shown(), Telling(service, lambda: [] if dry_run else run.tables):
        try:
            run.run()
        except BackfillStopped as stopped:
            failed = stopped
        finally:
            protection.close()
    _answer(run, failed, undo=undo, dry_run=dry_run, as_json=as_json)


def _answer(run: "BackfillRun", failed: BackfillStopped | None, *, undo: bool, dry_run: bool, as_json: bool) -> None:
    document = backfill_view.document(run.tables, run.notes, undo=undo, dry_run=dry_run)

    def show(console: Console) -> None:
        backfill_view.draw(console, document)

    refusal: BackfillStopped | BackfillUnfinished | None = failed
    if failed is None and not dry_run and not all(one.is_whole for one in run.tables):
        refusal = BackfillUnfinished()
    if refusal is None:
        output.answer(document, as_json=as_json, show=show)
    else:
        output.answer_refused(document, refusal.code, refusal.message, refusal.hint, as_json=as_json, show=show)


@contextmanager
def _told_to_stop(stop: threading.Event) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end it after the batch it is at, and a second one at once, which is as safe."""

    def told(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
