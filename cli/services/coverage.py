"""`openkcmctl service coverage`: the encrypted share of a tenant's data, the gaps and the overhead."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cli.connections import Tenant, dashboard_database
from compliance.audit.operator_events import command_event
from compliance.coverage.assessment import (
    ALL_PROTECTED,
    LATELY_DAYS,
    LOOKED_BACK_DAYS,
    NOT_MEASURED,
    Coverage,
    FieldCoverage,
    FullyCovered,
    Incomplete,
    Overhead,
    ServiceCoverage,
    Unknown,
    Verdict,
    Volume,
)
from compliance.coverage.reader import read_coverage
from config.settings import load_settings
from openkcm.cli import output
from openkcm.contract.audit_events import AuditName
from openkcm.contract.names import parse_tenant_id

_STATUS: Mapping[type[Verdict], str] = MappingProxyType(
    {FullyCovered: "protected", Incomplete: "incomplete", Unknown: "unknown"}
)


def show_coverage(tenant: Tenant, *, as_json: output.AsJson = False) -> None:
    """Show which data of a tenant is encrypted, as its services report, and the gaps; the access is recorded."""
    tenant_id, now = parse_tenant_id(tenant), datetime.now(UTC)
    with dashboard_database(load_settings()) as database, database.tenant_tx(tenant_id) as tx:
        found = read_coverage(tx, now)
        shown = {"rows": str(len(found.services)), "format": "command"}
        tx.audit.append(command_event(AuditName.EXPORTED, "coverage", "success", **shown))
    document = {
        "tenant_id": tenant_id,
        **_verdict(found.verdict),
        "overhead": _overhead(found.overhead),
        "services": [_service(one, found) for one in found.services],
        "retired": list(found.retired),
    }
    output.answer(document, as_json=as_json, show=lambda console: _draw(console, found))


def _verdict(verdict: Verdict) -> Mapping[str, Any]:
    match verdict:
        case FullyCovered():
            return {"protected": True, "status": _STATUS[FullyCovered], "missing": []}
        case Incomplete(gaps) | Unknown(gaps):
            missing = [
                {
                    "code": gap.code,
                    "service": gap.service,
                    "place": gap.place,
                    "missing": gap.missing,
                    "next": gap.next_step,
                }
                for gap in gaps
            ]
            return {"protected": False, "status": _STATUS[type(verdict)], "missing": missing}


def _service(one: ServiceCoverage, found: Coverage) -> Mapping[str, Any]:
    facts = one.facts
    return {
        "service_id": one.service,
        "kind": facts.kind,
        "state": facts.state,
        **_verdict(one.verdict),
        "ways": list(one.ways),
        "agents_connected": facts.agents_connected,
        "certificate_not_after": facts.certificate_ends and facts.certificate_ends.isoformat(),
        "operations_today": one.days.get(found.today, 0),
        "operations_by_day": {day.isoformat(): count for day, count in one.days.items()},
        "overhead": _overhead(one.overhead),
        "fields": [_field(field) for field in one.fields],
    }


def _field(one: FieldCoverage) -> Mapping[str, Any]:
    return {
        "place": one.place,
        "listed": one.field is not None,
        "mode": one.field and one.field.mode,
        "plaintext_allowed": one.field is not None and one.field.plaintext_allowed,
        "plain_values_read": one.plain_values,
        "plain_last_read": one.plaintext_read and one.plaintext_read.isoformat(),
        "backfill": one.backfill
        and {"state": one.backfill.state, "done": one.backfill.done, "remaining": one.backfill.remaining},
        "last_seen": one.seen and one.seen.isoformat(),
        "today": _amount(one.today),
        f"last_{LATELY_DAYS}_days": _amount(one.week),
        f"last_{LOOKED_BACK_DAYS}_days": _amount(one.month),
        "overhead": _overhead(one.overhead),
    }


def _amount(one: Volume) -> Mapping[str, int]:
    return {"operations": one.operations, "bytes": one.bytes}


def _overhead(one: Overhead | None) -> Mapping[str, Any] | None:
    """Return the measured overhead; None, and not 0, without a measurement."""
    if one is None:
        return None
    return {
        "share": one.share,
        "microseconds": one.microseconds,
        "request_microseconds": one.request_microseconds,
    }


def _draw(console: Console, found: Coverage) -> None:
    services = Table(_whole("service"), "state", "method", "today", "overhead")
    for one in found.services:
        state = _STATUS[type(one.verdict)]
        ways = ", ".join(one.ways) or "none"
        _add(services, one.service, state, ways, f"{one.days.get(found.today, 0):,}", _share(one.overhead))
    fields = Table(_whole("service"), _whole("field"), "mode", f"{LATELY_DAYS} days", "last seen", "overhead")
    for one in found.services:
        for field in one.fields:
            mode = field.field.mode if field.field else "not on the list"
            seen = field.seen.isoformat() if field.seen else "not seen"
            _add(fields, one.service, field.place, mode, f"{field.week.operations:,}", seen, _share(field.overhead))
    for table in (services, fields):
        if table.row_count:
            console.print(table)
    for words in _words(found.verdict):
        console.print(Text(words), soft_wrap=True)


def _words(verdict: Verdict) -> Sequence[str]:
    match verdict:
        case FullyCovered():
            return [f"{ALL_PROTECTED}: no gaps in the list of protected fields, as the services report"]
        case Incomplete(gaps) | Unknown(gaps):
            steps = [(" ".join(filter(None, (gap.service, gap.place, gap.missing))), gap.next_step) for gap in gaps]
            return [line for missing, step in steps for line in (f"missing  {missing}", f"   next  {step}")]


def _whole(name: str) -> Column:
    """Return a column whose names are never cut, because operators copy them."""
    return Column(name, overflow="fold")


def _add(table: Table, *cells: str) -> None:
    """Add cells as text, not as markup: the customer's programs choose the names of tables and collections."""
    table.add_row(*map(Text, cells))


def _share(one: Overhead | None) -> str:
    return NOT_MEASURED if one is None else one.percent()
