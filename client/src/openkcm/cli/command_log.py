"""The log of commands: what does not belong on a terminal and helps to analyze a failure."""

import logging
import os
import secrets
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class LibraryLog(logging.Handler):
    """Keeps log lines of libraries off standard error, where they would surround the one error of the command.

    They go to the log of commands where its folder exists. A command that runs elsewhere leaves no file behind.
    """

    def __init__(self, file: Callable[[], Path | None]) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        file = self._file()
        if file is not None and file.parent.is_dir():
            with suppress(OSError):
                _append(file, f"{self.format(record)}\n")


def record_failure(file: Path | None) -> tuple[str, Path]:
    """Append the traceback under a reference that the user gets instead; return it and the file.

    Without a file, or with one that cannot be written, the traceback goes to a new temporary file.
    """
    reference = secrets.token_hex(4)
    text = f"reference {reference}\n{traceback.format_exc()}\n"
    if file is not None:
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _append(file, text)
            return reference, file
    with tempfile.NamedTemporaryFile("w", prefix="openkcm-", suffix=".log", delete=False, encoding="utf-8") as other:
        other.write(text)
    return reference, Path(other.name)


def _append(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as log:
        log.write(text)
