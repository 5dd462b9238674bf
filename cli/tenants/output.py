"""Output of `openkcmctl tenant show` as text: facts, resources, provisioning steps and isolation checks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.certificates import BELIEVED, AuthorityState
from core.tenants.status import Status

_MARKS = {"done": "[green]✓[/]", "failed": "[red]✗[/]", "retrying": "[yellow]…[/]", "pending": "·"}


def draw(console: Console, tenant: Mapping[str, Any]) -> None:
    """Print a tenant as returned by `describe_tenant`."""
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
        *_status(tenant["status"]),
        ("region", tenant["region"]),
        ("root key", tenant["root_key_mode"]),
        ("ready", ready),
        ("keys", ", ".join(map(_key, tenant["keys"])) or "none yet"),
        ("services", ", ".join(map(_service, tenant["services"])) or "none"),
        *_authorities(tenant["authorities"]),
        ("route", f"by issuer {route['issuer_fingerprint'][:16]}…" if route else "none"),
        ("isolation", _boundaries(checks)),
        ("last assessment", _assessment(tenant["examination"])),
        ("audit stream", f"{audit['events']} records, head {(audit['head'] or '')[:16]}…"),
    ]
    if tenant["leaving"]:
        facts.append(("offboarding", _offboarding(tenant["leaving"])))
    if tenant["provisioning_slo_breached_at"]:
        facts.append(("provisioning SLO", f"breached at {tenant['provisioning_slo_breached_at'][:19]}"))
    return facts


def _status(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return the overall status, and each subject that is not operational."""
    if found is None:
        return []
    faults = [one for one in found["subjects"] if one["status"] != Status.OPERATIONAL]
    parts = [f"{one['subject']}: {one['words']}{_causes(one['causes'])}" for one in faults]
    return [("status", "; ".join([str(found["overall"]), *parts]))]


def _causes(codes: Sequence[str]) -> str:
    return f" ({', '.join(codes)})" if codes else ""


def _boundaries(checks: Counter[str]) -> str:
    made, not_checked = checks["held"] + checks["breached"], checks["not-checked"]
    if not checks:
        return "not checked yet"
    return f"{checks['held']} of {made} attacks rejected" + (f", {not_checked} not checked" if not_checked else "")


def _assessment(newest: Mapping[str, Any] | None) -> str:
    if newest is None:
        return "none yet; the first complete one is within a day of the activation"
    at = f"{newest['examined_at'][:16].replace('T', ' ')} UTC"
    unseen = [f"{line['clause']} ({line['not_checked']})" for line in newest["clauses"] if line["not_checked"]]
    return at + (f", not checked: {', '.join(unseen)}" if unseen else "")


def _authorities(authorities: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the trusted tenant CAs; expired ones are omitted."""
    trusted = [one for one in authorities if one["state"] in BELIEVED]
    if not trusted:
        return [("tenant CA", "none yet")]
    facts = []
    for one in trusted:
        if one["state"] == AuthorityState.CURRENT:
            facts.append(("tenant CA", f"{one['serial']}, until {one['not_after'][:10]}"))
        else:
            last = (one["issued_until"] or "")[:16].replace("T", " ")
            facts.append(("former tenant CA", f"{one['serial']}, its last certificate expires {last} UTC"))
        listed = one["revocation_list"]
        if listed:
            valid = listed["next_update"][:16].replace("T", " ")
            facts.append(("CRL", f"number {listed['number']}, valid until {valid} UTC"))
    return facts


def state(tenant: Mapping[str, Any]) -> str:
    """Return a tenant's state in words with the lock reasons."""
    locked = tenant["state"] == "locked" and tenant["locks"]
    return f"{tenant['state']} ({', '.join(tenant['locks'])})" if locked else str(tenant["state"])


def _offboarding(leaving: Mapping[str, Any]) -> str:
    if leaving["ended_at"]:
        return f"all keys were destroyed at {_moment(leaving['ended_at'])}"
    if leaving["destroying_at"]:
        return f"destroying keys since {_moment(leaving['destroying_at'])}; it cannot be restored"
    return f"since {_moment(leaving['since'])}; it can be restored until {_moment(leaving['until'])}"


def _moment(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC"


def _key(key: Mapping[str, Any]) -> str:
    since = f", decrypts from {key['oldest']}" if key["oldest"] > 1 else ""
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
