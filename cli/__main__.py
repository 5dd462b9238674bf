"""`openkcm`: find the command, run it, and turn whatever happens into output and an exit status."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from cli.command_log import LibraryLog, record_failure
from openkcm.cli import output, streams
from openkcm.cli.version import installed_version
from openkcm.errors import OpenKcmError

_PROGRAM = "openkcm"
_VERSION_FLAG = "--version"
_MODULES = {
    "devstack.cli": ("up", "down", "status", "doctor"),
    "devstack.marketplace_simulator.enable": ("enable",),
    "cli.tenants.commands": ("tenant",),
    "cli.services.commands": ("service",),
    "cli.services.coverage": ("coverage",),
    "cli.root_keys.commands": ("root-key",),
    "cli.audit.commands": ("audit",),
    "cli.isolation": ("check-boundaries",),
    "cli.reports": ("report",),
    "cli.offboarding": ("offboard", "restore"),
    "cli.rotation": ("rotate",),
    "openkcm.cli.agent": ("agent",),
    "openkcm.cli.run": ("run",),
    "openkcm.cli.backfill": ("backfill",),
    "cli.services.protected_fields": ("protection",),
    "cli.setup": ("setup",),
}
"""Module → the words its commands begin with. A new module adds its row here and has a `register(app)`."""

_STATUSES = "Exit status: 0 done, 1 refused, failed or refuted, 2 wrong usage, 3 could not be checked."
_HELP = ("--help", "-h")
_HELP_WIDTH = 110
"""Of help that is no terminal's, characters: enough for the longest option, which typer cuts at 80."""


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        output.people().print(f"{_PROGRAM} {installed_version()}", highlight=False)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 refused or failed, 2 wrong usage, 3 could not check."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = output.JSON_FLAG in words
    if not set(_HELP).isdisjoint(words) and not sys.stdout.isatty():
        rich_utils = import_module("typer.rich_utils")  # slow, and a command without help does not need it
        vars(rich_utils)["MAX_WIDTH"] = _HELP_WIDTH
    try:
        typer.main.get_command(_app(words)).main(args=words, prog_name=_PROGRAM)
    except SystemExit as ended:
        # Typer has explained wrong usage on standard error; a program that reads JSON gets its document as well.
        if ended.code == output.WRONG_USAGE and as_json:
            output.fail("usage", "wrong usage, see standard error", "openkcm --help", as_json=True)
        return ended.code if isinstance(ended.code, int) else output.REFUSED
    except OpenKcmError as refused:
        output.refuse(refused, as_json=as_json)
    except Exception:  # noqa: BLE001 - the edge: what nobody foresaw becomes "internal" here
        reference, log = record_failure()
        output.fail(
            "internal", f"something unforeseen went wrong, reference {reference}", f"see {log}", as_json=as_json
        )
    return _failed(words)


def _failed(words: list[str]) -> int:
    """Return the exit status of a command that failed; for one that gives a verdict it is not the negative one."""
    verifies = words[:1] == ["check-boundaries"] or tuple(words[:2]) in {("audit", "verify"), ("audit", "reconcile")}
    return output.COULD_NOT_CHECK if verifies else output.REFUSED


def _app(words: Sequence[str]) -> typer.Typer:
    """Return the application with the module of the command that was called, or with all of them."""
    app = typer.Typer(name=_PROGRAM, no_args_is_help=True, context_settings={"help_option_names": list(_HELP)})
    app.callback(epilog=_STATUSES)(_options)
    first = next(iter(words or _words_to_complete()), "")
    called = [module for module, commands in _MODULES.items() if first in commands]
    modules = [] if first == _VERSION_FLAG else called or list(_MODULES)
    for module in modules:
        import_module(module).register(app)
    return app


def _words_to_complete() -> list[str]:
    """Return the words behind `openkcm` on the command line that bash, or another shell, asks to complete."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return line.split()[1:]


def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(_VERSION_FLAG, callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Operate the OpenKCM tenant controller."""


def entry() -> NoReturn:
    """Run the command of this process and end it.

    Without the interpreter's finalization: a thread of Temporal's core that calls back during it aborts the process,
    with a dump on standard error and another exit status.
    """
    streams.prepare()
    logging.getLogger().addHandler(LibraryLog())
    words = sys.argv[1:]
    try:
        status = main(words)
        sys.stdout.flush()
    except streams.OutputLost as lost:
        streams.end_without_output(lost, _failed(words))
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()
