"""`openkcmctl tenant approvals`: list the requests for approval of a tenant. Only its users can decide them."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.connections import Tenant, operator_database
from config.settings import load_settings
from core.errors.tenants import TenantUnknown
from core.tenants.approvals import Approval
from openkcm.cli import output
from openkcm.contract.names import parse_tenant_id


def list_approvals(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """List pending requests for approval and the latest decisions, with their reasons."""
    tenant_id = parse_tenant_id(tenant)
    with operator_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        if tx.tenants.get() is None:
            raise TenantUnknown
        found = [*tx.approvals.pending(), *tx.approvals.latest()]
    rows = [_describe(one) for one in found]
    output.answer(
        {"tenant_id": tenant_id, "approvals": rows}, as_json=as_json, show=lambda console: _draw(console, rows)
    )


def _describe(one: Approval) -> dict[str, Any]:
    return {
        "approval_id": one.approval_id,
        "action": one.action,
        "argument": dict(one.argument),
        "state": one.state,
        "requested_by": one.requested_by,
        "requested_at": one.requested_at.isoformat(),
        "request_reason": one.request_reason,
        "expires_at": one.expires_at and one.expires_at.isoformat(),
        "decided_by": one.decided_by,
        "decided_at": one.decided_at and one.decided_at.isoformat(),
        "decision_reason": one.decision_reason,
        "failure": one.failure,
    }


def _draw(console: Console, rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print(Text("no request for approval is recorded"))
        return
    table = Table("action", "state", "requested by", "reason", "expires", "decided by", "reason of the decision")
    for row in rows:
        cells = [row["action"], row["state"], row["requested_by"], row["request_reason"] or "not given"]
        cells += [(row["expires_at"] or "")[:16].replace("T", " "), row["decided_by"], row["decision_reason"]]
        table.add_row(*(Text(str(cell or "")) for cell in cells))
    console.print(table)
