"""What the supervisor says of each component, and the commands read."""

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
    ORPHANED = "orphaned"
    """It runs, but its supervisor is gone; the next `up` or `down` ends it."""


@dataclass(frozen=True, slots=True)
class Report:
    """One component as `make status` shows it. `seconds` is the time its last start took."""

    name: str
    state: State
    pid: int | None = None
    address: str | None = None
    seconds: float | None = None
    restarts: int = 0
    problem: str | None = None
    hint: str | None = None
