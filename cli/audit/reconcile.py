"""`openkcmctl audit reconcile`: compare the key server's audit log with the audit streams (docs/reconciliation.md)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.connections import operator_database, parse_any_tenant_id, require_tenant
from cli.tenants.commands import every_tenant
from compliance.reconciliation.ledger import ReconciliationResult, RecordedStream, ServerLog, our_records, reconcile_all
from compliance.reconciliation.model import LATE, Discrepancy, Severity
from compliance.reconciliation.vault_log import files_of, read_log
from config.settings import load_settings
from core.errors.compliance import AuditDiscrepancy, VaultAuditLogNotConfigured
from database.connection.database import Database
from openkcm.cli import output
from openkcm.contract.names import RESERVED_PREFIX
from openkcm.errors import FileRefused

_SETTLED = timedelta(seconds=10)
"""Minimum age of compared records: the crypto service's records have reached the streams by then."""

Which = Annotated[str, typer.Argument(help="The marketplace account id, unless --all.")]
All = Annotated[bool, typer.Option("--all", help="Every tenant, including the platform's own.")]
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--vault-log", help="The key server's audit log; repeat for rotated files, oldest first, and for other nodes."
    ),
]
Since = Annotated[datetime | None, typer.Option("--since", help="Start of the period, UTC; default: start of the log.")]
Until = Annotated[datetime | None, typer.Option("--until", help="End of the period, UTC; default: ten seconds ago.")]


def reconcile(  # noqa: PLR0913 - one parameter for each option
    tenant: Which = "",
    every: All = False,  # noqa: FBT002 - an option
    vault_log: Files = None,
    since: Since = None,
    until: Until = None,
    *,
    as_json: output.AsJson = False,
) -> None:
    """Compare the key server's audit log with the audit streams.

    Exit status: 0 no discrepancies, 1 discrepancies, 2 wrong usage, 3 could not be checked.
    """
    if bool(tenant) == every:
        raise typer.BadParameter("specify a tenant or --all")
    settings = load_settings()
    begin, end = _utc(since), _utc(until) or datetime.now(UTC) - _SETTLED
    files = vault_log or _configured_logs(settings.key_server_logs)
    with operator_database(settings) as database:
        wanted = (
            [row.tenant_id for row in every_tenant(database)]
            if every
            else [require_tenant(database, parse_any_tenant_id(tenant)).tenant_id]
        )
        log = _read(files, begin, as_json=as_json)
        streams = {one: our_records(database, one, begin) for one in _needed(database, wanted)}
    if every:
        streams |= {tenant_id: RecordedStream(()) for tenant_id in log.events if tenant_id and tenant_id not in streams}
    result = reconcile_all(log, streams, begin, end, every=every or len(streams) > 1)
    if not every:
        result = ReconciliationResult(result.platform, {one: result.tenants[one] for one in wanted})
    _report(result, log, streams, end, as_json=as_json)


def _needed(database: Database, wanted: Sequence[str]) -> Sequence[str]:
    """Return the tenants whose streams are read; the platform's tenants take part in the isolation checks of all."""
    if any(tenant_id.startswith(RESERVED_PREFIX) for tenant_id in wanted):
        return [row.tenant_id for row in every_tenant(database)]
    return wanted


def _configured_logs(logs: Sequence[Path]) -> Sequence[Path]:
    if not logs:
        raise VaultAuditLogNotConfigured
    for path in logs:
        if not files_of(path):
            raise FileRefused(f"{path} does not exist", "specify the key server's audit log with --vault-log")
    return files_of(*logs)


def _read(files: Sequence[Path], since: datetime | None, *, as_json: bool) -> ServerLog:
    with _show_progress(files, as_json=as_json) as progress:
        return read_log(files, None if since is None else since - LATE, progress)


@contextmanager
def _show_progress(files: Sequence[Path], *, as_json: bool) -> Iterator[Callable[[int], None]]:
    """Show the read progress on standard error if it is a terminal."""
    size = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".gz")
    columns = (TextColumn("reading the log"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    hidden = as_json or not output.progress.is_terminal
    with Progress(*columns, console=output.progress, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=size or None)
        yield lambda number: bar.advance(task, number)


def _report(
    result: ReconciliationResult,
    log: ServerLog,
    streams: dict[str, RecordedStream],
    until: datetime,
    *,
    as_json: bool,
) -> None:
    discrepancies = [*result.platform, *(one for differences in result.tenants.values() for one in differences)]
    number = sum(one.severity is not Severity.NOTICE for one in discrepancies)
    document = {
        "clean": result.clean,
        "differences": number,
        "log": {"lines": log.lines, "begin": log.begin and log.begin.isoformat(), "until": until.isoformat()},
        "platform": [_describe_discrepancy(one) for one in result.platform],
        "tenants": [
            {
                "tenant_id": tenant_id,
                "requests": len(log.events.get(tenant_id, ())),
                "records": len(streams[tenant_id].records),
                "differences": [_describe_discrepancy(one) for one in differences],
            }
            for tenant_id, differences in sorted(result.tenants.items())
        ],
    }

    def show(console: Console) -> None:
        for one in discrepancies:
            console.print(Text(_line(one)), soft_wrap=True)
        reach = "nothing" if log.begin is None else f"{log.begin:%Y-%m-%d %H:%M:%S} to {until:%Y-%m-%d %H:%M:%S} UTC"
        requests = sum(len(log.events.get(tenant_id, ())) for tenant_id in result.tenants)
        records = sum(len(streams[tenant_id].records) for tenant_id in result.tenants)
        compared = f"{requests} key requests and {records} records of {len(result.tenants)} tenants"
        console.print(Text(f"{compared} compared, {reach}: {number} discrepancies"), soft_wrap=True)

    if result.clean:
        output.answer(document, as_json=as_json, show=show)
    else:
        error = AuditDiscrepancy(number)
        output.answer_refused(document, error.code, error.message, error.hint, as_json=as_json, show=show)


def _line(one: Discrepancy) -> str:
    at = "" if one.at is None else f"{one.at:%Y-%m-%d %H:%M:%S} "
    lacks = f"; missing in the {one.lacks}" if one.lacks else ""
    of = f"{one.tenant_id}: " if one.tenant_id else ""
    return f"{at}{one.severity} {one.kind}: {of}{one.what}{lacks}"


def _describe_discrepancy(one: Discrepancy) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "severity": one.severity,
        "at": one.at and one.at.isoformat(),
        "tenant_id": one.tenant_id,
        "what": one.what,
        "lacks": one.lacks,
        "who": one.who,
        "reference": one.reference,
    }


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
