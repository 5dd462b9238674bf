"""Output of root keys, their changes, their health and the problems of a preflight as text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.errors.keys import CustomerKeyError
from core.tenants.locks import HEALTHY
from database.root_keys import RootKeyChangeRow

_NOT_MONITORED = "not monitored: the platform's own root key"


def draw(console: Console, shown: Mapping[str, Any]) -> None:
    """Print a root key as returned by `describe_root_key`."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(shown):
        # As text, not as markup: a customer chose these names. Folded, not cut: operators copy them.
        facts.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    console.print(facts)
    if shown["health_hint"]:
        console.print(Text.assemble(("hint  ", "bold"), shown["health_hint"]), soft_wrap=True)
    if shown["changes"]:
        console.print()
        console.print(_changes(shown["changes"]))
    if shown["problems"]:
        console.print()
        draw_problems(console, shown["problems"])


def draw_problems(console: Console, problems: Sequence[Mapping[str, Any]]) -> None:
    """Print the problems of a preflight with their remedies; a policy in a hint can be copied unchanged."""
    for problem in problems:
        console.print(
            Text.assemble(("✗ ", "red"), (problem["code"], "bold"), f": {problem['message']}"), soft_wrap=True
        )
        for line in problem["hint"].splitlines():
            console.print(Text(f"  {line}"), soft_wrap=True)


def progress(change: RootKeyChangeRow) -> str:
    """Return the progress of a change in words; empty before its keys have been counted."""
    return "" if not change.total else f"wrapped {change.wrapped:,} of {change.total:,} versions of service keys"


def _facts(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    health, since = shown["health"], shown["health_since"]
    return [
        ("tenant", shown["tenant_id"]),
        ("root key", f"{shown['root_key_mode']} {shown['name']}"),
        *([] if shown["version"] is None else [("version", _version(shown["version"], shown["older_wraps"]))]),
        *(
            (name.replace("_", " "), _value(name, value))
            for name, value in shown["place"].items()
            if name != "provider"
        ),
        ("health", _NOT_MONITORED if health is None else f"{health} since {_time(since)}: {shown['health_message']}"),
        ("locks", ", ".join(shown["locks"]) or "none"),
        ("external id", f"{shown['external_id']} (required in the trust policy of a role at AWS)"),
        ("platform at AWS", shown["aws_principal"] or "setting aws_principal is not set: ask the operator"),
    ]


def _version(newest: int, older: int) -> str:
    if not older:
        return f"{newest}; it wraps all service keys"
    wraps = "1 wrap is" if older == 1 else f"{older:,} wraps are"
    return f"{newest}; {wraps} by an older version and will be re-wrapped within about an hour"


def _value(name: str, value: str) -> str:
    return f"{value.count('BEGIN CERTIFICATE')} certificates of your own" if name == "ca_pem" else value


def _changes(changes: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("change", "from", "to", "state", "wrapped", "began", "problem", box=None, pad_edge=False)
    for change in changes:
        cells = (
            str(change["number"]),
            change["from_mode"],
            f"{change['to_mode']} {change['to_name']}",
            change["state"],
            f"{change['wrapped']:,} of {change['total']:,}",
            _time(change["started_at"]),
            change["problem"] or "",
        )
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    return table


def _time(at: str) -> str:
    return at[:19].replace("T", " ")


_HEALTHY_MEANING = "the root key encrypts and decrypts"


def _all(kind: type[CustomerKeyError]) -> Iterator[type[CustomerKeyError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all(below)


def meaning(health: str) -> str:
    """Return the meaning of a recorded health."""
    return _HEALTHY_MEANING if health == HEALTHY else _error(health).message


def remedy(health: str) -> str:
    """Return the remedy for a health; empty for a healthy root key."""
    return "" if health == HEALTHY else _error(health).hint


def _error(health: str) -> type[CustomerKeyError]:
    return {kind.code: kind for kind in _all(CustomerKeyError)}.get(health, CustomerKeyError)
