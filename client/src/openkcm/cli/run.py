"""`openkcm run`: run a Python program with encrypted columns, without a change to the program."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

import openkcm.field_encryption as hooks
from openkcm.cli import output
from openkcm.cli.python_program import blind_option, python_arguments
from openkcm.errors import os_reason
from openkcm.field_encryption.errors import RunRefused

_OTHER_LANGUAGE = (
    "a program in another language encrypts over HTTPS: docs/microservices.md#connect; for a launcher, such as a"
    " shell or uwsgi, add --launcher to protect the Python programs that it starts"
)


def register(app: typer.Typer) -> None:
    app.command("run", context_settings={"allow_interspersed_args": False})(run)


def run(
    program: Annotated[list[str], typer.Argument(help="Program and its arguments")],
    *,
    folder: Annotated[
        Path,
        typer.Option(help="Folder written by `service connect --out`", envvar="OPENKCM_RUN_FOLDER"),
    ] = Path("openkcm"),
    key_seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds for which an unwrapped column key is used")
    ] = 60.0,
    launcher: Annotated[
        bool, typer.Option("--launcher", help="Allow a program that is not Python; protect the Python that it starts")
    ] = False,
) -> None:
    """Run a Python program, and the programs that it starts, with its protected columns encrypted."""
    from openkcm.sdk.errors import CertificateUnusable  # noqa: PLC0415 - its import would slow every other command
    from openkcm.sdk.identity import Identity  # noqa: PLC0415 - the same

    found = shutil.which(program[0])
    if found is None:
        raise RunRefused(
            f"{program[0]} is not an executable program", "start a script as: openkcm run -- python app.py"
        )
    _refuse_unprotected(found, program, launcher=launcher)
    try:
        Identity.from_folder(folder)
    except CertificateUnusable as refused:
        raise RunRefused(f"{folder} is not the folder of a connected service: {refused.detail}") from None
    environment = run_environment(os.environ, folder.resolve(), key_seconds)
    sys.stdout.flush()
    try:
        os.execve(found, program, environment)  # noqa: S606 - the user's own program
    except OSError as failed:
        raise RunRefused(f"{program[0]} cannot be started: {os_reason(failed)}") from None


def run_environment(environment: Mapping[str, str], folder: Path, key_seconds: float) -> dict[str, str]:
    """Return the environment in which a Python program loads the encryption at its start."""
    startup = str(Path(hooks.__file__).with_name("bootstrap"))
    before = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part != startup]
    libraries = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join([startup, *before]),
        "OPENKCM_RUN_FOLDER": str(folder),
        "OPENKCM_RUN_PATHS": os.pathsep.join(libraries),
        "OPENKCM_RUN_PYTHON": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "OPENKCM_RUN_KEY_SECONDS": f"{key_seconds:g}",
    }


def _refuse_unprotected(found: str, program: Sequence[str], *, launcher: bool) -> None:
    """Reject a program that would never load the encryption; warn about a launcher that the caller allows."""
    arguments = python_arguments(Path(found), program[1:])
    if arguments is None:
        if not launcher:
            raise RunRefused(f"{program[0]} is not a Python program, so its data is not encrypted", _OTHER_LANGUAGE)
        output.warn(f"{program[0]} is not a Python program: only the Python programs that it starts are protected")
    elif (option := blind_option(arguments)) is not None:
        raise RunRefused(f"with {option} Python does not load the encryption", "leave out the options -I, -E and -S")
