"""Settings that `openkcm run` passes to a protected program."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """`folder` is that of the connected service; the times limit the use of an unwrapped key and of a field list."""

    folder: Path
    key_seconds: float
    catalogue_seconds: float


def read_environment(environment: Mapping[str, str]) -> RunEnvironment:
    """Return the settings in the environment variables."""
    return RunEnvironment(
        Path(environment["OPENKCM_RUN_FOLDER"]),
        float(environment.get("OPENKCM_RUN_KEY_SECONDS", "60")),
        float(environment.get("OPENKCM_RUN_CATALOGUE_SECONDS", "30")),
    )
