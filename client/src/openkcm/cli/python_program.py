"""Whether a program is Python, and with which options Python starts: its name or the first lines of a script."""

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
"""How pip and uv start Python from a script whose interpreter has a path that no `#!` line can hold."""


def python_arguments(program: Path, arguments: Sequence[str]) -> Sequence[str] | None:
    """Return the arguments that Python itself reads when `program` is started; None when it does not start Python."""
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
            # Other options and assignments of env can take PYTHONPATH away: such a script counts as a launcher.
            words = list(dropwhile(_ENV_SPLIT.__contains__, words[1:]))
    return words[1:] if words and _is_python(Path(words[0]).name) else None


def blind_option(arguments: Sequence[str]) -> str | None:
    """Return the first option with which Python ignores PYTHONPATH or sitecustomize (-I, -E, -S), alone or in a group.

    The options end at the script, `-c` or `-m`; what follows is the program's own.
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
