"""The one place where the command prints: one JSON document on standard output, or a form for people."""

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
"""Of a command that verifies something: no result, where `REFUSED` is a negative one."""
JSON_FLAG = "--json"

AsJson = Annotated[bool, typer.Option(JSON_FLAG, help="Print one JSON document and nothing else.")]

_UNBOUNDED = 100_000
"""The width of what is no terminal, characters: a program that reads the output gets whole lines and cells."""


def _width(stream: TextIO) -> int | None:
    return None if stream.isatty() else _UNBOUNDED


def people() -> Console:
    """Return standard output for people; where it is no terminal, no line is wrapped and no cell is cut."""
    return Console(width=_width(sys.stdout))


progress = Console(stderr=True, width=_width(sys.stderr))


def answer(document: Mapping[str, Any], *, as_json: bool, show: Callable[[Console], None]) -> None:
    """Print the result of a command: the document, or what `show` makes of it for people."""
    if as_json:
        write_json(document)
    else:
        show(people())


def answer_refused(  # noqa: PLR0913 - an error's parts beside the document
    document: Mapping[str, Any],
    code: str,
    message: str,
    hint: str,
    *,
    as_json: bool,
    show: Callable[[Console], None] = lambda _console: None,
    status: int = REFUSED,
) -> NoReturn:
    """Print a result that is no success and end the command with `status`: the document, with the error in it."""
    if as_json:
        write_json({**document, "error": {"code": code, "message": message, "hint": hint}})
    else:
        show(people())
        fail(code, message, hint, as_json=False)
    raise typer.Exit(status)


@contextmanager
def waiting(what: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error what the command waits for while the block runs; yields what shows how far it is.

    A terminal gets one line that changes; elsewhere each text is a line, the first of them at once.
    """
    if progress.is_terminal:
        with progress.status(what) as status:
            yield status.update
        return
    progress.print(Text(what))
    yield lambda text: progress.print(Text(text))


def refuse(failed: OpenKcmError, *, as_json: bool) -> None:
    """Print why a command did not do what it was asked."""
    fail(failed.code, failed.message, failed.hint, as_json=as_json)


def fail(code: str, message: str, hint: str, *, as_json: bool) -> None:
    """Print an error by its parts."""
    if as_json:
        write_json({"error": {"code": code, "message": message, "hint": hint}})
        return
    # As text, not as markup: a message may quote what somebody typed.
    progress.print(Text.assemble(("error ", "bold red"), (code, "bold"), f": {message}"), soft_wrap=True)
    if hint:
        progress.print(Text.assemble(("hint  ", "bold"), hint), soft_wrap=True)


def warn(message: str) -> None:
    """Print on standard error what the caller should know although the command goes ahead."""
    progress.print(Text.assemble(("warning ", "bold yellow"), message), soft_wrap=True)


def write_json(document: Mapping[str, Any]) -> None:
    # Escaped by JSON itself where standard output cannot encode it: another escape would be no JSON.
    ascii_only = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(document, indent=2, default=str, ensure_ascii=ascii_only) + "\n")
