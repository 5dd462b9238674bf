"""What one agent is to do, as it was told at its start."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from openkcm.contract.services import ServiceKind


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What the agent is to do. `seen_as` is where the service itself finds the folder, which may be mounted there."""

    service: str
    kind: ServiceKind
    version: str
    seen_as: str
    host: str = field(default_factory=socket.gethostname)

    @property
    def instance_of(self) -> str:
        return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in self.host)[:40]


def folder_seen_as(folder: Path, named: str | None) -> str:
    """Return where the service finds its folder, for the configuration that names files in it."""
    return str(folder.absolute()) if named is None else named
