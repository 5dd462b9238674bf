"""`openkcm run`: start a Python program whose protected columns are encrypted without a change to it."""

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

import hooks
from tenancy.hook_errors import RunRefused

_PYTHON = re.compile(r"python(\d+(\.\d+)*)?(\.exe)?")
_BLIND = re.compile(r"-[a-zA-Z]*[IES]")
"""Options with which Python does not look at PYTHONPATH or sitecustomize."""
_WITH_VALUE = frozenset({"-W", "-X"})


def register(app: typer.Typer) -> None:
    app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run)


def run(
    program: Annotated[list[str], typer.Argument(help="The program and its arguments, after `--`.")],
    *,
    folder: Annotated[
        Path,
        typer.Option(help="The folder that `service connect --out` wrote.", envvar="KCM_RUN_FOLDER"),
    ] = Path("openkcm"),
    key_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="How long an opened column key is used without asking again.")
    ] = 60.0,
) -> None:
    """Run a Python program, and the programs it starts, with its protected columns encrypted."""
    from crypto.client_errors import CertificateUnusable  # noqa: PLC0415 - loading it would slow every other command
    from crypto.client_identity import Identity  # noqa: PLC0415 - the same

    try:
        Identity.from_folder(folder)
    except CertificateUnusable as refused:
        raise RunRefused(f"{folder} is not the folder of a connected service: {refused.detail}") from None
    found = shutil.which(program[0])
    if found is None:
        raise RunRefused(f"{program[0]} is not a program that can be found")
    _check_python(Path(found).name, program[1:])
    environment = surroundings(os.environ, folder.resolve(), key_seconds)
    sys.stdout.flush()
    os.execve(found, program, environment)  # noqa: S606 - the user's own program, by the user's own words


def surroundings(environment: Mapping[str, str], folder: Path, key_seconds: float) -> dict[str, str]:
    """Return the environment in which a Python program brings the hook in by itself."""
    root = Path(hooks.__file__).parents[1]
    startup = str(root / "hooks" / "startup")
    before = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != startup]
    libraries = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join([startup, *before]),
        "KCM_RUN_FOLDER": str(folder),
        "KCM_RUN_PATHS": os.pathsep.join(libraries),
        "KCM_RUN_PYTHON": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "KCM_RUN_KEY_SECONDS": f"{key_seconds:g}",
    }


def _check_python(name: str, arguments: Sequence[str]) -> None:
    """Refuse options of Python with which it would start without the hook."""
    if not _PYTHON.fullmatch(name):
        return
    left = iter(arguments)
    for word in left:
        if word in {"-c", "-m"} or not word.startswith("-"):
            return
        if word in _WITH_VALUE:
            next(left, None)
        elif _BLIND.match(word) and not word.startswith("--"):
            raise RunRefused(f"with {word} Python would not bring the hook in", "leave out the options -I, -E and -S")
