"""What a protected program was told by `openkcm run`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """`folder` is the connected service's; the others are how long an opened key and a list of fields are used."""

    folder: Path
    key_seconds: float
    catalogue_seconds: float


def surroundings(environment: Mapping[str, str]) -> RunEnvironment:
    """Return what the variables say."""
    return RunEnvironment(
        Path(environment["KCM_RUN_FOLDER"]),
        float(environment.get("KCM_RUN_KEY_SECONDS", "60")),
        float(environment.get("KCM_RUN_CATALOGUE_SECONDS", "30")),
    )
