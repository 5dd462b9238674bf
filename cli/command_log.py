"""The log of commands: what does not belong on a terminal and helps to analyze a failure."""

import logging
import os
import secrets
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from config.settings import Settings, load_settings
from core.errors.platform import SettingsInvalid


class LibraryLog(logging.Handler):
    """Keeps what libraries log off standard error, where it would surround the one error of the command.

    It goes to the log of commands where this machine has one. A command that runs elsewhere leaves no file behind.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        file = _file()
        if file.parent.is_dir():
            with suppress(OSError):
                _append(file, f"{self.format(record)}\n")


def record_failure() -> tuple[str, Path]:
    """Append the traceback under a reference that the user gets instead; return it and the file."""
    reference, file = secrets.token_hex(4), _file()
    text = f"reference {reference}\n{traceback.format_exc()}\n"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _append(file, text)
    except OSError:  # a state folder that cannot be used may be the very reason
        with tempfile.NamedTemporaryFile(
            "w", prefix="openkcm-", suffix=".log", delete=False, encoding="utf-8"
        ) as other:
            other.write(text)
        file = Path(other.name)
    return reference, file


def _append(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as log:
        log.write(text)


def _file() -> Path:
    try:
        state_dir = load_settings().state_dir
    except SettingsInvalid:
        state_dir = Path(str(Settings.model_fields["state_dir"].default))
    return state_dir / "logs" / "command.log"
