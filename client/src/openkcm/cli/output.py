"""Output of every command: one JSON document on standard output, or a presentation for people."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.console import Console
from rich.text import Text

from openkcm.errors import OpenKcmError

REFUSED = 1
WRONG_USAGE = 2
COULD_NOT_CHECK = 3
"""Exit status of a verification without a result; `REFUSED` is a negative result."""
JSON_FLAG = "--json"

AsJson = Annotated[bool, typer.Option(JSON_FLAG, help="Print one JSON document and nothing else")]

_UNBOUNDED = 100_000
"""Width in characters if the output is not a terminal: programs that read it get whole lines and cells."""


def _width(stream: TextIO) -> int | None:
    return None if stream.isatty() else _UNBOUNDED


def people() -> Console:
    """Return standard output for people; without a terminal, no line is wrapped and no cell is cut."""
    return Console(width=_width(sys.stdout), emoji=False)


progress = Console(stderr=True, width=_width(sys.stderr), emoji=False)


def answer(document: Mapping[str, Any], *, as_json: bool, show: Callable[[Console], None]) -> None:
    """Print the result of a command: the document, or its presentation by `show`."""
    if as_json:
        write_json(document)
    else:
        show(people())


def answer_refused(  # noqa: PLR0913 - the parts of an error and the document
    document: Mapping[str, Any],
    code: str,
    message: str,
    hint: str,
    *,
    as_json: bool,
    show: Callable[[Console], None] = lambda _console: None,
    status: int = REFUSED,
) -> NoReturn:
    """Print a result that is not a success, with its error, and exit with `status`."""
    if as_json:
        write_json({**document, "error": {"code": code, "message": message, "hint": hint}})
    else:
        show(people())
        fail(code, message, hint, as_json=False)
    raise typer.Exit(status)


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error what the command waits for; yield a function that updates the text.

    A terminal shows one line that changes; otherwise each text is a new line, the first one immediately.
    """
    if progress.is_terminal:
        with progress.status(what) as status:
            yield status.update
        return
    progress.print(Text(what))
    yield lambda text: progress.print(Text(text))


def refuse(failed: OpenKcmError, *, as_json: bool) -> None:
    """Print why a command failed."""
    fail(failed.code, failed.message, failed.hint, as_json=as_json)


def fail(code: str, message: str, hint: str, *, as_json: bool) -> None:
    """Print an error by its parts."""
    if as_json:
        write_json({"error": {"code": code, "message": message, "hint": hint}})
        return
    # As text, not as markup: a message may quote user input.
    progress.print(Text.assemble(("error ", "bold red"), (code, "bold"), f": {message}"), soft_wrap=True)
    if hint:
        progress.print(Text.assemble(("hint  ", "bold"), hint), soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on standard error; the command continues."""
    progress.print(Text.assemble(("warning ", "bold yellow"), message), soft_wrap=True)


def write_json(document: Mapping[str, Any]) -> None:
    # JSON escapes what standard output cannot encode; any other escape would be invalid JSON.
    ascii_only = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(document, indent=2, default=str, ensure_ascii=ascii_only) + "\n")
