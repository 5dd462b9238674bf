"""The state of components, as the supervisor writes it and the commands read it."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    WAITING = "waiting"
    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    PAUSED = "restarting"
    STOPPED = "stopped"
    EXTERNAL = "external"
    UNRESPONSIVE = "unresponsive"
    """The process runs and does not answer its health check."""
    FULL = "full"
    """The file system of the state folder has too little space: servers reject writes."""
    ORPHANED = "orphaned"
    """The process runs without its supervisor; the next `up` or `down` ends it."""


@dataclass(frozen=True, slots=True)
class Report:
    """The state of one component in `make status`.

    `seconds` is the duration of its last start. `restarts` counts the failures since it was last stable.
    """

    name: str
    state: State
    pid: int | None = None
    address: str | None = None
    seconds: float | None = None
    restarts: int = 0
    problem: str | None = None
    hint: str | None = None
