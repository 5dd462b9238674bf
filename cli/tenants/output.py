"""How `openkcmctl tenant show` looks to a person: what it is, what it has, how far it got, whether its walls held."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.certificates import BELIEVED, AuthorityState

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
    breached = [check for check in tenant["boundary_checks"] if check["outcome"] == "breached"]
    for check in breached:
        console.print(Text.assemble(("breached ", "bold red"), f"{check['clause']} {check['name']}"))


def _facts(tenant: Mapping[str, Any]) -> list[tuple[str, str]]:
    route, audit = tenant["route"], tenant["audit"]
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
        *_authorities(tenant["authorities"]),
        ("route", f"by issuer {route['issuer_fingerprint'][:16]}…" if route else "none"),
        ("boundaries", _boundaries(checks)),
        ("examined", _examined(tenant["examination"])),
        ("audit stream", f"{audit['events']} records, head {(audit['head'] or '')[:16]}…"),
    ]
    if tenant["leaving"]:
        facts.append(("leaving", _leaving(tenant["leaving"])))
    if tenant["promise_broken_at"]:
        facts.append(("promise", f"broken at {tenant['promise_broken_at'][:19]}"))
    return facts


def _boundaries(checks: Counter[str]) -> str:
    made, not_checked = checks["held"] + checks["breached"], checks["not-checked"]
    if not checks:
        return "not attacked yet"
    return f"{checks['held']} of {made} attacks refused" + (f", {not_checked} not checked" if not_checked else "")


def _examined(newest: Mapping[str, Any] | None) -> str:
    if newest is None:
        return "not yet in full; it is within a day of being ready"
    at = f"{newest['examined_at'][:16].replace('T', ' ')} UTC"
    unseen = [f"{line['clause']} ({line['not_checked']})" for line in newest["clauses"] if line["not_checked"]]
    return at + (f", not checked: {', '.join(unseen)}" if unseen else "")


def _authorities(authorities: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the authorities that are believed; one that has ended is of no interest here."""
    believed = [one for one in authorities if one["state"] in BELIEVED]
    if not believed:
        return [("authority", "none yet")]
    facts = []
    for one in believed:
        if one["state"] == AuthorityState.CURRENT:
            facts.append(("authority", f"{one['serial']}, until {one['not_after'][:10]}"))
        else:
            last = (one["issued_until"] or "")[:16].replace("T", " ")
            facts.append(("former authority", f"{one['serial']}, its last certificate ends {last} UTC"))
        listed = one["revocation_list"]
        if listed:
            valid = listed["next_update"][:16].replace("T", " ")
            facts.append(("revocation list", f"number {listed['number']}, valid until {valid} UTC"))
    return facts


def state(tenant: Mapping[str, Any]) -> str:
    """Return a tenant's state in words, with what locks it."""
    locked = tenant["state"] == "locked" and tenant["locks"]
    return f"{tenant['state']} by {', '.join(tenant['locks'])}" if locked else str(tenant["state"])


def _leaving(leaving: Mapping[str, Any]) -> str:
    if leaving["ended_at"]:
        return f"everything was destroyed at {_moment(leaving['ended_at'])}"
    if leaving["destroying_at"]:
        return f"its keys are being destroyed since {_moment(leaving['destroying_at'])}; nothing can be restored"
    return f"since {_moment(leaving['since'])}; it can be restored until {_moment(leaving['until'])}"


def _moment(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC"


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
