"""`openkcmctl isolation check`: assess the isolation of one tenant, or of all, and print the results.

It starts the assessment workflow (with --all it joins running assessments), verifies the signatures of the recorded
results and prints them. A started assessment continues when the command is interrupted.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.connections import Ask, ask_gateway, operator_database, require_tenant
from config.settings import load_settings
from core.errors.compliance import AssessmentFailed, AssessmentTampered, IsolationBreached, NothingToExamine
from core.isolation import flaw
from core.tenants.lifecycle import DECRYPTS, State
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.tenants import TenantRow
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import RESERVED_PREFIX, parse_tenant_id
from openkcm.errors import OpenKcmError
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.public_keys import PublicKeys

if TYPE_CHECKING:
    from workflows.client.workflow_client import WorkflowClient

_ASSESSABLE_STATES = DECRYPTS | {State.LOCKED}
_EACH_SECONDS = 0.5
"""Time between two tenants, so that services keep their share of the platform; 1,000 tenants take about 8 minutes."""
_PAGE = 500

Tenant = Annotated[str | None, typer.Argument(help="The marketplace account id, unless --all.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Check every active, suspended or locked tenant.")]


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    isolation = typer.Typer(no_args_is_help=True)
    isolation.command("check")(AssessIsolation(ask).check_boundaries)
    app.add_typer(isolation, name="isolation")


class AssessIsolation:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def check_boundaries(self, tenant: Tenant = None, *, every: All = False, as_json: output.AsJson = False) -> None:
        """Run every isolation check of the standard against a tenant and print the results.

        A breach locks the tenant. Exit status: 0 every attack was rejected, 1 an attack succeeded or a recorded result
        was altered, 2 wrong usage, 3 could not be checked.
        """
        if every == (tenant is not None):
            raise typer.BadParameter("specify a tenant or --all", param_hint="TENANT")
        with operator_database(load_settings()) as database:
            rows = (
                list(_assessable_tenants(database))
                if tenant is None
                else [_assessable_tenant(database, parse_tenant_id(tenant))]
            )
            ended = self._assess(database, rows, show=every and not as_json)
            if not every:
                _raise_error(ended[rows[0].tenant_id])
            checked = [_verify_results(database, tenant_id, run) for tenant_id, run in ended.items()]
        document = _document(checked, every=every)
        if document["passed"]:
            output.answer(document, as_json=as_json, show=lambda console: _draw(console, document))
            return
        code, message, hint = _worst_failure(document)
        status = output.REFUSED if code in {IsolationBreached.code, AssessmentTampered.code} else output.COULD_NOT_CHECK
        output.answer_refused(
            document, code, message, hint, as_json=as_json, show=lambda console: _draw(console, document), status=status
        )

    def _assess(self, database: Database, rows: Sequence[TenantRow], *, show: bool) -> dict[str, str | OpenKcmError]:
        """Assess the tenants one after the other; return the run id of each, or the error that prevented it."""
        ended: dict[str, str | OpenKcmError] = {}
        with Progress(console=output.progress, disable=not show) as progress:
            task = progress.add_task("checking tenants", total=len(rows))

            async def assess(gateway: "WorkflowClient") -> None:
                for row in rows:
                    next_one = time.monotonic() + _EACH_SECONDS
                    try:
                        with audited(database, row.tenant_id, AuditName.BOUNDARY_CHECK_REQUESTED):
                            run = await gateway.check_boundaries(row.tenant_id, row.region, repeat=len(rows) == 1)
                            if _is_daily(database, row.tenant_id, run):
                                # The request joined an assessment of the schedule, which made only some attacks.
                                run = await gateway.check_boundaries(row.tenant_id, row.region, repeat=False)
                            ended[row.tenant_id] = run
                    except OpenKcmError as failed:
                        ended[row.tenant_id] = failed
                    progress.advance(task)
                    if row is not rows[-1]:
                        await asyncio.sleep(next_one - time.monotonic())

            self._ask(load_settings(), assess)
        return ended


def _is_daily(database: Database, tenant_id: str, run: str) -> bool:
    with database.tenant_tx(tenant_id) as tx:
        daily = tx.boundaries.daily()
    return daily is not None and daily.line.run == run


def _assessable_tenant(database: Database, tenant_id: str) -> TenantRow:
    row = require_tenant(database, tenant_id)
    if row.state not in _ASSESSABLE_STATES:
        raise NothingToExamine(row.state)
    return row


def _assessable_tenants(database: Database) -> Iterator[TenantRow]:
    after = ""
    while rows := PlatformQueries(database).list_tenants(after, _PAGE):
        yield from (
            row for row in rows if row.state in _ASSESSABLE_STATES and not row.tenant_id.startswith(RESERVED_PREFIX)
        )
        after = rows[-1].tenant_id


def _raise_error(ended: str | OpenKcmError) -> None:
    if isinstance(ended, OpenKcmError):
        raise ended


def _verify_results(database: Database, tenant_id: str, run: str | OpenKcmError) -> dict[str, Any]:
    """Return the recorded results of one tenant's assessment as JSON types, after a check of their signatures."""
    nothing = {"tenant_id": tenant_id, "passed": False, "held": 0, "breached": 0, "not_checked": 0, "checks": []}
    if isinstance(run, OpenKcmError):
        return nothing | {"error": _error(run)}
    with database.tenant_tx(tenant_id) as tx:
        row, results = tx.boundaries.examination(run), tx.boundaries.results_of(run)
    if row is None:
        return nothing | {"error": _error(AssessmentFailed())}
    altered = flaw(
        tenant_id, row.lines, PublicKeys.from_database(PlatformQueries(database).audit_keys()).check, results
    )
    return {
        "tenant_id": tenant_id,
        "passed": row.passed and not altered,
        "examined_at": row.examined_at.isoformat(),
        "held": row.held,
        "breached": row.breached,
        "not_checked": row.not_checked,
        "checks": [
            result.model_dump(include={"clause", "name", "outcome", "seconds"})
            | ({"why": result.evidence} if result.outcome != "held" else {})
            for result in results
        ],
    } | ({"error": _error(AssessmentTampered(altered))} if altered else {})


def _error(failed: OpenKcmError) -> dict[str, str]:
    return {"code": failed.code, "message": failed.message, "hint": failed.hint}


def _document(checked: Sequence[Mapping[str, Any]], *, every: bool) -> dict[str, Any]:
    """Return the document; with --all each check has its tenant's id, and each tenant has its totals."""
    checks = [check | ({"tenant_id": one["tenant_id"]} if every else {}) for one in checked for check in one["checks"]]
    totals = [{name: value for name, value in one.items() if name != "checks"} for one in checked]
    whole = {"passed": all(one["passed"] for one in checked), "checks": checks}
    return whole | ({"tenants": totals} if every else {"tenant": totals[0]})


def _worst_failure(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return code, message and hint of the worst failure: a breach, then an altered result, then a missing one."""
    totals = document.get("tenants") or [document["tenant"]]
    breached = [one["tenant_id"] for one in totals if one["breached"]]
    if breached:
        return (
            IsolationBreached.code,
            f"tenant isolation was breached: {', '.join(breached)}",
            "each of these tenants is locked; keep the evidence and follow docs/runbook.md#isolation-breach",
        )
    failures = [one for one in totals if "error" in one]
    failed = next(
        (one for one in failures if one["error"]["code"] == AssessmentTampered.code), next(iter(failures), None)
    )
    if failed is None:
        return "boundary_not_checked", "no isolation check could run", "see the reason of each check"
    error = failed["error"]
    return error["code"], f"{failed['tenant_id']}: {error['message']}", error["hint"]


def _draw(console: Console, document: Mapping[str, Any]) -> None:
    table = Table("clause", "what it means", "rejected", "succeeded", "not checked")
    for clause in CLAUSES.values():
        ended = [check["outcome"] for check in document["checks"] if check["clause"] == clause.id]
        if ended:
            counts = (str(ended.count(outcome)) for outcome in ("held", "breached", "not-checked"))
            table.add_row(clause.id, clause.means, *counts)
    console.print(table)
    for check in document["checks"]:
        if check["outcome"] == "breached":
            prefix = f"{check['tenant_id']} " if "tenant_id" in check else ""
            console.print(Text.assemble(("breached ", "bold red"), f"{prefix}{check['clause']} {check['name']}"))
    unseen = sorted({check["why"] for check in document["checks"] if check["outcome"] == "not-checked"})
    for why in unseen:
        console.print(Text(f"not checked: {why}"))
    tenants = document.get("tenants")
    if tenants is not None:
        passed = sum(one["passed"] for one in tenants)
        console.print(Text(f"{passed:,} of {len(tenants):,} tenants passed: every attack was rejected"))
