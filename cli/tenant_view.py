"""How `openkcm tenant show` looks to a person: what it is, what it has, how far it got, whether its walls held."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "retrying": "[yellow]…[/]", "pending": "·"}


def draw(console: Console, tenant: Mapping[str, Any]) -> None:
    """Print a tenant as `tenant.everything` describes it."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(tenant):
        # As text, not as markup: a customer chose the organization's name.
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
    if tenant["steps"]:
        console.print()
        console.print(_steps(tenant["steps"]))
    breached = [check for check in tenant["boundary_checks"] if check["outcome"] != "held"]
    for check in breached:
        console.print(Text.assemble(("breached ", "bold red"), f"{check['clause']} {check['name']}"))


def _facts(tenant: Mapping[str, Any]) -> list[tuple[str, str]]:
    authority, route, audit = tenant["authority"], tenant["route"], tenant["audit"]
    checks = Counter(check["outcome"] for check in tenant["boundary_checks"])
    ready = f"{tenant['ready_seconds']:.2f} s after the event" if tenant["ready_seconds"] is not None else "not yet"
    facts = [
        ("tenant", tenant["tenant_id"]),
        ("organization", tenant["organization"]),
        ("state", state(tenant)),
        ("region", tenant["region"]),
        ("root key", tenant["root_key_mode"]),
        ("ready", ready),
        ("keys", ", ".join(map(_key, tenant["keys"])) or "none yet"),
        ("services", ", ".join(map(_service, tenant["services"])) or "none"),
        ("authority", f"{authority['serial']}, until {authority['not_after'][:10]}" if authority else "none yet"),
        ("route", f"by issuer {route['issuer_fingerprint'][:16]}…" if route else "none"),
        ("boundaries", f"{checks['held']} of {checks.total()} attacks refused" if checks else "not attacked yet"),
        ("audit stream", f"{audit['events']} records, head {(audit['head'] or '')[:16]}…"),
    ]
    if tenant["promise_broken_at"]:
        facts.append(("promise", f"broken at {tenant['promise_broken_at'][:19]}"))
    return facts


def state(tenant: Mapping[str, Any]) -> str:
    """Return a tenant's state in words, with what locks it."""
    return f"{tenant['state']} by {', '.join(tenant['locks'])}" if tenant["locks"] else str(tenant["state"])


def _key(key: Mapping[str, Any]) -> str:
    since = f", opens from {key['oldest']}" if key["oldest"] > 1 else ""
    return f"{key['name']} (version {key['version']}{since})"


def _service(service: Mapping[str, Any]) -> str:
    return f"{service['service_id']} ({service['kind']}, {service['state']})"


def _steps(steps: list[Mapping[str, Any]]) -> Table:
    table = Table("", "step", "took", "failed tries", "last problem", box=None, pad_edge=False)
    for step in steps:
        table.add_row(
            _MARKS[step["state"]], step["title"], _took(step), str(step["attempts"] or ""), step["problem"] or ""
        )
    return table


def _took(step: Mapping[str, Any]) -> str:
    if not step["started_at"] or not step["finished_at"]:
        return ""
    seconds = datetime.fromisoformat(step["finished_at"]) - datetime.fromisoformat(step["started_at"])
    return f"{seconds.total_seconds() * 1000:.0f} ms"
