"""Sources of the credentials of a root key: a file of mode 0600, standard input or a prompt.

Never the command line: every user of the machine can read arguments in the process list, and the shell stores them in
its history. The values go into one `Credentials`, which has no text form, and from there only into the encrypted
request. No error here quotes a value.
"""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import typer

from core.keys.root_keys import (
    AwsKmsKeyRef,
    Credentials,
    OpenBaoKeyRef,
    Pkcs11KeyRef,
    Place,
    PlatformKeyRef,
    parse_credentials,
    refuse_incomplete,
)
from openkcm.errors import CallerError

STANDARD_INPUT = "-"
_OPTION = "--credentials"
_LONGEST = 16_384
_OTHERS = 0o077
_SHOWN_WHILE_TYPED = frozenset({"access_key_id"})
_FIELDS = ", ".join(Credentials.model_fields)


class FileRefused(CallerError):
    """A file option names an unusable file; no part of it was used."""

    code = "file_refused"


@dataclass(frozen=True, slots=True)
class Source:
    """The options about credentials: a file, and the access key id, which is not secret."""

    file: str | None = None
    access_key_id: str | None = None

    def read(self, place: Place) -> Credentials:
        """Return the credentials for `place`; prompt at the terminal for missing values.

        Raises:
            typer.BadParameter: a value is missing and there is no terminal.
            FileRefused: the file is unusable.
            RootKeyRefused: they are not the credentials that `place` needs.
        """
        values = self._from_options()
        if isinstance(place, PlatformKeyRef) and not values:
            return Credentials()
        if self.file is None:
            values |= _prompt([name for name in _prompted_fields(place, values) if name not in values])
        credentials = parse_credentials(values)
        refuse_incomplete(place, credentials)
        return credentials

    def _from_options(self) -> dict[str, str]:
        values = {} if self.file is None else _parsed(_text(self.file))
        if self.access_key_id is not None:
            if "access_key_id" in values:
                raise typer.BadParameter("the file has an access_key_id too: omit one", param_hint="--access-key-id")
            values["access_key_id"] = self.access_key_id
        return values


def _prompted_fields(place: Place, values: dict[str, str]) -> tuple[str, ...]:
    match place:
        case AwsKmsKeyRef(role_arn=None):
            return ("access_key_id", "secret_access_key")
        case AwsKmsKeyRef() if values:
            return ("secret_access_key",)
        case Pkcs11KeyRef():
            return ("pin",)
        case OpenBaoKeyRef(role_id=None):
            return ("token",)
        case OpenBaoKeyRef():
            return ("secret_id",)
    return ()  # the platform's own identity may assume the role


def _prompt(names: list[str]) -> dict[str, str]:
    if names and not sys.stdin.isatty():
        wanted = " and ".join(names)
        raise typer.BadParameter(
            f"no terminal to prompt for {wanted}: specify a file of mode 0600 with a JSON object, or"
            f" {STANDARD_INPUT} for standard input",
            param_hint=_OPTION,
        )
    return {
        name: typer.prompt(name.replace("_", " "), hide_input=name not in _SHOWN_WHILE_TYPED, err=True).strip()
        for name in names
    }


def _text(file: str) -> bytes:
    if file == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise typer.BadParameter(
                "standard input is a terminal, which would echo the credentials: omit this option to be prompted"
                " without echo",
                param_hint=_OPTION,
            )
        return _limited(sys.stdin.buffer, "standard input")
    try:
        with Path(file).open("rb") as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & _OTHERS:
                raise FileRefused(
                    f"{file} is readable by others",
                    f"chmod 600 {file}; if others use this machine, treat the credentials as compromised: replace them",
                )
            return _limited(stream, file)
    except OSError:
        raise FileRefused(
            f"{file} cannot be read", f"specify a JSON object with the needed fields of {_FIELDS}, mode 0600"
        ) from None


def _limited(stream: IO[bytes], name: str) -> bytes:
    text = stream.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise FileRefused(f"{name} is too long for credentials", f"at most {_LONGEST} bytes are read")
    return text


def _parsed(text: bytes) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in Credentials.load(text) if value is not None}
