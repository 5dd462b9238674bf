"""Which program has a command."""

import sys
from collections.abc import Sequence

_DEVELOPMENT = {"up", "down", "status", "doctor", "enable"}
_CLIENT = {"agent", "run", "backfill"}


def command_line(words: Sequence[str]) -> list[str]:
    """Return the command line that runs a command of the development stack, of the client or of operators."""
    client = words[0] in _CLIENT or tuple(words[:2]) == ("audit", "verify")
    development = words[0] in _DEVELOPMENT and "--stores" not in words
    module = "devstack" if development else "openkcm.cli" if client else "cli"
    return [sys.executable, "-m", module, *words]
