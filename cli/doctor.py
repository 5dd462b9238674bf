"""`openkcmctl doctor`: check an installation; with `--stores` compare its stores, and repair what a restore changed.

It reads with the operator's identity. Repairs are done by the worker, which compares the stores again. `python -m
devstack doctor` is another command: it checks the embedded servers of a development installation.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.audited import audited
from cli.connections import Ask, ask_gateway, operator_database, operator_vault, parse_any_tenant_id
from config.settings import Settings, load_settings
from core.errors.tenants import TenantUnknown
from core.tenants.store_comparison import Skew, SkewKind, compare
from database.connection.database import Database
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName

if TYPE_CHECKING:
    from workflows.client.workflow_client import WorkflowClient

STORES_DIFFER, CHECKS_FAILED = "stores_differ", "checks_failed"
_AGAIN_SECONDS = 3.0
"""Longer than Temporal's list of workflows lags behind, and than most operations between two of their steps."""

Stores = Annotated[bool, typer.Option("--stores", help="Compare PostgreSQL, the key server and Temporal.")]
OneTenant = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Compare only this tenant.")]
Repair = Annotated[bool, typer.Option("--repair", help="Repair the differences for which that is possible.")]


def register(app: typer.Typer, ask: Ask = ask_gateway) -> None:
    app.command("doctor")(Doctor(ask).doctor)


class Doctor:
    def __init__(self, ask: Ask, again_seconds: float = _AGAIN_SECONDS) -> None:
        self._ask = ask
        self._again_seconds = again_seconds

    def doctor(
        self,
        *,
        stores: Stores = False,
        tenant: OneTenant = None,
        repair: Repair = False,
        as_json: output.AsJson = False,
    ) -> None:
        """Check servers, processes and certificates; with --stores compare what the servers have about the tenants.

        Exit status: 0 no problem, 1 a check failed or differences are left, 2 wrong usage, 3 could not be checked.
        """
        if not stores:
            if repair or tenant is not None:
                raise typer.BadParameter("--tenant and --repair need it", param_hint="--stores")
            self._check_installation(as_json=as_json)
            return
        settings, wanted = load_settings(), None if tenant is None else parse_any_tenant_id(tenant)
        with operator_database(settings) as database:
            found = self._compared(settings, database, wanted)
            if not found and wanted is not None:
                _require_tenant(database, wanted)
            asked = [skew for skew in found if repair and skew.remedy.repair]
            if asked:
                self._repair(settings, database, asked)
                found = self._compared(settings, database, wanted)
        document = {"skews": [_described(skew) for skew in found], "repaired": sorted({one.tenant_id for one in asked})}
        if not found:
            output.answer(document, as_json=as_json, show=lambda console: console.print("the stores agree"))
            return
        output.answer_refused(
            document,
            STORES_DIFFER,
            f"the stores differ: {len(found)} findings",
            "see docs/backup-and-restore.md#each-difference-and-its-remedy",
            as_json=as_json,
            show=lambda console: _draw(console, found),
        )

    def _check_installation(self, *, as_json: bool) -> None:
        from cli.installation import check_installation  # noqa: PLC0415 - `--stores` does not need it

        checks = check_installation(load_settings(), self._ask)
        document = {"checks": [asdict(check) for check in checks]}
        failed = sum(not check.ok for check in checks)

        def show(console: Console) -> None:
            table = Table("check", "result", "detail", "next step")
            for check in checks:
                cells = (check.name, "ok" if check.ok else "failed", check.detail, check.hint)
                table.add_row(*(Text(cell) for cell in cells))
            console.print(table)

        if not failed:
            output.answer(document, as_json=as_json, show=show)
            return
        message = f"{failed} of {len(checks)} checks failed"
        output.answer_refused(document, CHECKS_FAILED, message, "do the next steps", as_json=as_json, show=show)

    def _compared(self, settings: Settings, database: Database, wanted: str | None) -> Sequence[Skew]:
        """Return the differences that two comparisons show: one alone can be an operation in progress."""
        found = self._once(settings, database, wanted)
        if not found:
            return found
        time.sleep(self._again_seconds)
        before = set(found)
        return [skew for skew in self._once(settings, database, wanted) if skew in before]

    def _once(self, settings: Settings, database: Database, wanted: str | None) -> Sequence[Skew]:
        from compliance.stores import StoreReader  # noqa: PLC0415 - imports hvac, which most commands do not need

        states = StoreReader(database, operator_vault(settings)).all()

        async def read_workflows(gateway: "WorkflowClient") -> None:
            nonlocal states
            workflows, offboardings = await gateway.tenant_workflows()
            states = replace(states, workflows=workflows, offboardings=offboardings)

        self._ask(settings, read_workflows)
        return [skew for skew in compare(states) if wanted in {None, skew.tenant_id}]

    def _repair(self, settings: Settings, database: Database, skews: Sequence[Skew]) -> None:
        async def repair(gateway: "WorkflowClient") -> None:
            for tenant_id, group in groupby(skews, key=lambda skew: skew.tenant_id):
                kinds = list(group)
                replaces = any(skew.remedy.replace for skew in kinds)
                if any(skew.kind is SkewKind.TENANT_LOST for skew in kinds):  # it has no audit stream
                    await gateway.repair_tenant(tenant_id, uuid4().hex, replace_workflows=replaces)
                    continue
                names = ", ".join(skew.kind for skew in kinds)
                with audited(database, tenant_id, AuditName.REPAIR_REQUESTED, skews=names):
                    await gateway.repair_tenant(tenant_id, uuid4().hex, replace_workflows=replaces)

        self._ask(settings, repair)


def _require_tenant(database: Database, tenant_id: str) -> None:
    """Raise TenantUnknown for a tenant that no store has: a misspelt name must not pass as one without differences."""
    with database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown


def _described(skew: Skew) -> dict[str, Any]:
    remedy = skew.remedy
    return {
        "tenant_id": skew.tenant_id,
        "kind": skew.kind,
        "meaning": remedy.meaning,
        "detail": skew.detail,
        "remedy": remedy.steps,
        "repairable": remedy.repair,
    }


def _draw(console: Console, skews: Sequence[Skew]) -> None:
    table = Table("tenant", "kind", "meaning", "detail", "remedy")
    for skew in skews:
        cells = (skew.tenant_id, skew.kind, skew.remedy.meaning, skew.detail, skew.remedy.steps)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
