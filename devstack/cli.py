"""`make up | down | status | doctor`: the embedded stack."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from config.settings import load_settings
from core.errors.platform import ComponentFailed
from devstack.stack import control
from devstack.stack.control import Status
from devstack.stack.status import State
from openkcm.cli import output

if TYPE_CHECKING:
    from devstack.doctor import Finding

_COLOURS = {State.READY: "green", State.EXTERNAL: "green", State.STOPPED: "dim"}
_COLOURS |= dict.fromkeys((State.PAUSED, State.UNRESPONSIVE, State.FULL), "red")


def register(app: typer.Typer) -> None:
    for command in (up, down, status, doctor):
        app.command()(command)


def up(as_json: output.AsJson = False) -> None:  # noqa: FBT002 - a command line flag
    """Start all components that do not run and wait until they are ready."""
    settings = load_settings()
    if as_json:
        output.write_json(_document(control.up(settings, lambda _now: None)))
        return
    began = time.monotonic()
    with Live(console=output.progress, refresh_per_second=10, transient=True) as live:
        now = control.up(settings, lambda now: live.update(_table(now, f"starting, {_since(began)}")))
    console = output.people()
    console.print(_table(now, f"ready after {_since(began)}"))
    _show_addresses(now, console)


def down(as_json: output.AsJson = False) -> None:  # noqa: FBT002 - the same
    """Stop all components of the embedded stack."""
    stopped = control.down(load_settings())
    text = f"stopped {', '.join(stopped)}" if stopped else "nothing was running"
    output.answer({"stopped": list(stopped)}, as_json=as_json, show=lambda console: console.print(text))


def status(as_json: output.AsJson = False) -> None:  # noqa: FBT002 - the same
    """Show the state and addresses of all components; exit with 1 unless all work."""
    settings = load_settings()
    now = control.status(settings)

    def show(console: Console) -> None:
        console.print(_table(now, f"{'running' if now.running else 'not running'} in {settings.state_dir.resolve()}"))
        _show_addresses(now, console)

    if now.ready:
        output.answer(_document(now), as_json=as_json, show=show)
        return
    if now.running:
        message = ", ".join(f"{report.name} is {report.state}" for report in now.problems)
        hint = next((report.hint for report in now.problems if report.hint), "make up")
    else:
        message, hint = "the stack is not running", "make up"
    output.answer_refused(_document(now), ComponentFailed.code, message, hint, as_json=as_json, show=show)


def doctor(as_json: output.AsJson = False) -> None:  # noqa: FBT002 - the same
    """Check this machine, the settings and the servers, and report problems with their remedy."""
    from devstack.doctor import examine  # noqa: PLC0415 - imports every client library, which would slow `up`

    findings = examine(load_settings())
    sound = all(finding.ok for finding in findings)
    document = {"ok": sound, "checks": [asdict(finding) for finding in findings]}
    output.answer(document, as_json=as_json, show=lambda console: _show_findings(findings, console))
    if not sound:
        raise typer.Exit(output.REFUSED)


def _document(now: Status) -> dict[str, Any]:
    return {"components": [asdict(report) for report in now.components], "addresses": now.addresses}


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"


def _table(now: Status, title: str) -> Table:
    table = Table("component", "state", "pid", "address", "took", "problem", title=title, title_justify="left")
    for report in now.components:
        table.add_row(
            report.name,
            f"[{_COLOURS.get(report.state, 'yellow')}]{report.state}",
            str(report.pid or ""),
            report.address or "",
            f"{report.seconds:.1f} s" if report.seconds is not None else "",
            report.problem or "",
        )
    return table


def _show_addresses(now: Status, console: Console) -> None:
    for name, address in now.addresses.items():
        if address is not None:
            console.print(f"{name:<12} {address}")


def _show_findings(findings: "tuple[Finding, ...]", console: Console) -> None:
    for finding in findings:
        mark = "[green]ok     [/]" if finding.ok else "[red]problem[/]"
        console.print(f"{mark} {finding.name}: {finding.detail}", highlight=False)
        if not finding.ok and finding.hint:
            console.print(f"        {finding.hint}", highlight=False, markup=False)
