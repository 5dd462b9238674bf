"""Telling the service that its files are new: a signal to the process in a pid file, or a command; never a shell."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from openkcm.agent.attestation import JOIN_TOKEN_VARIABLE, JWT_VARIABLE
from openkcm.agent.errors import ReloadFailed
from openkcm.errors import InvalidName

_COMMAND_SECONDS = 60.0
_PID_BYTES = 32


class Reload(Protocol):
    def tell(self, folder: Path) -> None:
        """Have the service read its files again; raises ReloadFailed."""
        ...


class NoReload:
    """For a service that looks at its files by itself."""

    def tell(self, folder: Path) -> None:
        pass


class PidFile:
    def __init__(self, file: Path, name: str) -> None:
        """Raises InvalidName when there is no signal of that name."""
        self._file = file
        try:
            self._signal = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise InvalidName("signal", "a name such as HUP or USR1") from None

    def tell(self, folder: Path) -> None:  # noqa: ARG002 - whoever gets a signal knows its files
        try:
            with self._file.open("rb") as opened:
                text = opened.read(_PID_BYTES)
            # PostgreSQL's has more lines; the first is the process in every kind there is.
            pid = int(text.split(b"\n")[0])
        except (OSError, ValueError) as failed:
            raise ReloadFailed(f"{self._file} names no process") from failed
        if pid <= 1:
            raise ReloadFailed(f"{self._file} names no process of a service")
        try:
            os.kill(pid, self._signal)
        except (OSError, OverflowError) as failed:
            raise ReloadFailed(f"process {pid} of {self._file} cannot be signalled") from failed


class Command:
    def __init__(self, line: str, environment: Mapping[str, str]) -> None:
        """Run `line`, split as a shell would and by no shell; raises InvalidName."""
        try:
            self._words: Sequence[str] = shlex.split(line)
        except ValueError:
            self._words = ()
        if not self._words:
            raise InvalidName("reload command", "a program and its arguments")
        secret = {JOIN_TOKEN_VARIABLE, JWT_VARIABLE}
        self._environment = {name: value for name, value in environment.items() if name not in secret}

    def tell(self, folder: Path) -> None:
        try:
            done = subprocess.run(
                self._words,
                env=self._environment | {"KCM_FOLDER": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ReloadFailed(f"{self._words[0]} did not end within {_COMMAND_SECONDS:.0f} seconds") from None
        except OSError as failed:
            raise ReloadFailed(f"{self._words[0]} cannot be run") from failed
        if done.returncode != 0:
            raise ReloadFailed(f"{self._words[0]} ended with status {done.returncode}")
