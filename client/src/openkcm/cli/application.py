"""A command-line application: load a command, run it, turn every outcome into output and an exit status."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from openkcm.cli import output, streams
from openkcm.cli.command_log import LibraryLog, record_failure
from openkcm.cli.version import installed_version
from openkcm.errors import OpenKcmError

_VERSION_FLAG = "--version"
_STATUSES = "Exit status: 0 done, 1 refused, failed or refuted, 2 wrong usage, 3 could not be checked."
_HELP = ("--help", "-h")
_HELP_WIDTH = 110
"""Width of help outside a terminal, in characters: enough for the longest option, which typer cuts at 80."""


@dataclass(frozen=True)
class Application:
    """A command as it is installed."""

    program: str
    """Its name as a user types it."""
    summary: str
    distribution: str
    modules: Mapping[str, Mapping[str, str]]
    """Module → the words its commands begin with, each with its line in the help of the program.

    Each module has a `register(app)`. Only that of the called command is loaded.
    """
    log_file: Callable[[], Path | None]
    """Where failures and the logs of libraries go; None where this machine has no such file."""
    separate_modules: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The two words of a command → a module that registers it alone, because the others of its group load slowly."""
    verdicts: Collection[tuple[str, ...]] = ()
    """Commands that verify something: when they fail, the result is not the negative one but "could not check"."""

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run one command and return its exit status: 0, 1 refused or failed, 2 wrong usage, 3 could not check."""
        words = list(sys.argv[1:] if arguments is None else arguments)
        as_json = output.JSON_FLAG in words
        if not set(_HELP).isdisjoint(words) and not sys.stdout.isatty():
            rich_utils = import_module("typer.rich_utils")  # slow, and only help needs it
            vars(rich_utils)["MAX_WIDTH"] = _HELP_WIDTH
        try:
            typer.main.get_command(self.app(words)).main(args=words, prog_name=self.program)
        except SystemExit as ended:
            # Typer explained wrong usage on standard error; a program that reads JSON gets its document as well.
            if ended.code == output.WRONG_USAGE and as_json:
                output.fail("usage", "wrong usage, see standard error", f"{self.program} --help", as_json=True)
            return ended.code if isinstance(ended.code, int) else output.REFUSED
        except OpenKcmError as refused:
            output.refuse(refused, as_json=as_json)
        except Exception:  # noqa: BLE001 - the edge: an unforeseen error becomes "internal" here
            reference, log = record_failure(self.log_file())
            output.fail(
                "internal", f"something unforeseen went wrong, reference {reference}", f"see {log}", as_json=as_json
            )
        return self._failed(words)

    def entry(self) -> NoReturn:
        """Run the command of this process and end it.

        Without the interpreter's finalization: a thread of Temporal's core that calls back during it aborts the
        process, with a dump on standard error and another exit status.
        """
        streams.prepare()
        logging.getLogger().addHandler(LibraryLog(self.log_file))
        words = sys.argv[1:]
        try:
            status = self.main(words)
            sys.stdout.flush()
        except streams.OutputLost as lost:
            streams.end_without_output(lost, self._failed(words))
        sys.stderr.flush()
        os._exit(status)

    def app(self, words: Sequence[str]) -> typer.Typer:
        """Return the application with the module of the called command, and the names of all other commands."""
        app = typer.Typer(name=self.program, no_args_is_help=True, context_settings={"help_option_names": list(_HELP)})
        app.callback(help=self.summary, epilog=_STATUSES)(self._options())
        called, following = _called(words or _words_to_complete())
        for module, commands in self.modules.items():
            if called in commands:
                gc.disable()  # loading creates no garbage, and looking for it takes a tenth of its time
                try:
                    import_module(self.separate_modules.get((called, following), module)).register(app)
                finally:
                    gc.freeze()  # what is loaded stays until the end, so later searches skip it
                    gc.enable()
                for group in app.registered_groups:
                    group.help = commands[str(group.name)]
            else:
                for word, line in commands.items():
                    app.command(word, help=line)(_not_loaded)
        return app

    def _failed(self, words: Sequence[str]) -> int:
        verifies = any(tuple(words[: len(verdict)]) == verdict for verdict in self.verdicts)
        return output.COULD_NOT_CHECK if verifies else output.REFUSED

    def _options(self) -> Callable[..., None]:
        def print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
            if wanted:
                output.people().print(f"{self.program} {installed_version(self.distribution)}", highlight=False)
                raise typer.Exit

        def options(
            *,
            version: Annotated[
                bool,
                typer.Option(_VERSION_FLAG, callback=print_version, is_eager=True, help="Print the version and exit."),
            ] = False,
        ) -> None:
            del version

        return options


def _not_loaded() -> NoReturn:
    raise AssertionError("a command was called whose module is not loaded")


def _called(words: Sequence[str]) -> tuple[str, str]:
    """Return the first word that is no option, and the word or option behind it; empty without one."""
    place = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    called, following = [*words[place : place + 2], "", ""][:2]
    return called, following


def _words_to_complete() -> list[str]:
    """Return the words behind the program on the command line that bash, or another shell, asks to complete."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return line.split()[1:]
