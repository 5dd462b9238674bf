"""Processes of the product as components of the stack: `python -m <module>` with the supervisor's settings."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.settings import LOOPBACK
from devstack.servers.base import Server, http_answer

EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - recognised here, never bound


class PythonProcess(Server):
    """A module that serves HTTP on a dedicated port, and is ready when `health` returns 200 and contains `saying`."""

    stops_first = True

    def __init__(  # noqa: PLR0913 - the description of one component
        self,
        name: str,
        module: str,
        state_dir: Path,
        ports: Mapping[str, int],
        *,
        health: str,
        saying: str = "",
        after: tuple[str, ...] = (),
        host: str = LOOPBACK,
        stop_seconds: float = 15.0,
        niceness: int = Server.niceness,
    ) -> None:
        self.name = name
        self.niceness = niceness
        super().__init__(state_dir, ports)
        self._module = module
        self._health = health
        self._saying = saying
        self._host = LOOPBACK if host in EVERYWHERE else host
        self.after = after
        self.stop_seconds = stop_seconds

    @property
    def address(self) -> str:
        return f"http://{self._host}:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", self._module]

    def working_directory(self) -> Path | None:
        return None  # a relative path in the environment is relative to the working directory of the command

    def ready(self) -> bool:
        status, text = http_answer(self.port, self._health, self._host) or (None, "")
        return status == 200 and self._saying in text
