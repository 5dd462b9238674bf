"""Configuration of one agent, fixed at its start."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from openkcm.contract.services import ServiceKind


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Configuration of one agent. `seen_as` is the path under which the service sees the folder, such as a mount."""

    service: str
    kind: ServiceKind
    version: str
    seen_as: str
    host: str = field(default_factory=socket.gethostname)

    @property
    def instance_of(self) -> str:
        return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in self.host)[:40]


def folder_seen_as(folder: Path, named: str | None) -> str:
    """Return the path under which the service sees its folder; generated configuration uses it."""
    return str(folder.absolute()) if named is None else named
