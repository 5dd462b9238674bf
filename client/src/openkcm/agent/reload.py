"""Notification of the service that its files have changed: a signal to a process, or a command without a shell."""

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
    def notify(self, folder: Path) -> None:
        """Have the service read its files again; raises ReloadFailed."""
        ...


class NoReload:
    """For a service that detects changed files itself."""

    def notify(self, folder: Path) -> None:
        pass


class PidFile:
    def __init__(self, file: Path, name: str) -> None:
        """Take the signal by its name; raises InvalidName for an unknown one."""
        self._file = file
        try:
            self._signal = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise InvalidName("signal", "a name such as HUP or USR1") from None

    def notify(self, folder: Path) -> None:  # noqa: ARG002 - a signal carries no arguments
        try:
            with self._file.open("rb") as file:
                text = file.read(_PID_BYTES)
            # PostgreSQL's pid file has more lines; the first is the process id in every known format.
            pid = int(text.split(b"\n")[0])
        except (OSError, ValueError) as failed:
            raise ReloadFailed(f"{self._file} holds no process id") from failed
        if pid <= 1:
            raise ReloadFailed(f"{self._file} holds no process id of a service")
        try:
            os.kill(pid, self._signal)
        except (OSError, OverflowError) as failed:
            raise ReloadFailed(f"process {pid} of {self._file} could not be signalled") from failed


class Command:
    def __init__(self, line: str, environment: Mapping[str, str]) -> None:
        """Take a command, split as a shell would and run without one; raises InvalidName."""
        try:
            self._words: Sequence[str] = shlex.split(line)
        except ValueError:
            self._words = ()
        if not self._words:
            raise InvalidName("reload command", "a program and its arguments")
        secret = {JOIN_TOKEN_VARIABLE, JWT_VARIABLE}
        self._environment = {name: value for name, value in environment.items() if name not in secret}

    def notify(self, folder: Path) -> None:
        try:
            done = subprocess.run(
                self._words,
                env=self._environment | {"OPENKCM_FOLDER": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ReloadFailed(f"{self._words[0]} did not exit within {_COMMAND_SECONDS:.0f} seconds") from None
        except OSError as failed:
            raise ReloadFailed(f"{self._words[0]} could not be run") from failed
        if done.returncode != 0:
            raise ReloadFailed(f"{self._words[0]} exited with status {done.returncode}")
