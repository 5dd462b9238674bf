"""Detection of Python programs and of their interpreter options, by name or by the first lines of a script."""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path

_PYTHON = re.compile(r"(python|pypy)(\d+(\.\d+)*[a-z]*)?(-dbg)?(\.exe)?")
_LONGEST_LINE = 4096
_LONG_WITH_VALUE = "--check-hash-based-pycs"
_ENV_SPLIT = frozenset({"-S", "--split-string"})
_SHELL_EXEC = b"'''exec'"
"""The start of scripts by pip and uv for an interpreter path that is too long for a `#!` line."""


def python_arguments(program: Path, arguments: Sequence[str]) -> Sequence[str] | None:
    """Return the arguments that the interpreter reads when `program` is started; None if it is not Python."""
    if _is_python(program.name) or _is_python(program.resolve().name):
        return arguments
    first = second = b""
    with suppress(OSError), program.open("rb") as script:
        first, second = script.readline(_LONGEST_LINE), script.readline(_LONGEST_LINE)
    if not first.startswith(b"#!"):
        return None
    if second.startswith(_SHELL_EXEC):
        words = re.sub(rb"['\"]", b"", second).decode(errors="replace").split()
        words = list(dropwhile(lambda word: not _is_python(Path(word).name), words))
    else:
        words = first[2:].decode(errors="replace").split()
        if words and Path(words[0]).name == "env":
            # Other options and assignments of env can remove PYTHONPATH: such a script counts as a launcher.
            words = list(dropwhile(_ENV_SPLIT.__contains__, words[1:]))
    return words[1:] if words and _is_python(Path(words[0]).name) else None


def blind_option(arguments: Sequence[str]) -> str | None:
    """Return the first option that makes Python ignore PYTHONPATH or sitecustomize (-I, -E, -S), also in a group.

    Interpreter options end at the script, `-c` or `-m`; the arguments after it belong to the program.
    """
    left = iter(arguments)
    for word in left:
        if word.startswith("--"):
            if word == _LONG_WITH_VALUE:
                next(left, None)
            continue
        if word == "-" or not word.startswith("-"):
            return None
        for place, letter in enumerate(word[1:], start=2):
            if letter in "cm":
                return None
            if letter in "IES":
                return word
            if letter in "WX":
                if place == len(word):
                    next(left, None)
                break
    return None


def _is_python(name: str) -> bool:
    return _PYTHON.fullmatch(name) is not None
