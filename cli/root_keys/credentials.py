"""Where the credentials of a root key come from: a file of its owner's alone, standard input, or a person's fingers.

Never the command line: arguments lie in the shell's history and in the process list, where every user of the machine
reads them. What was read goes into one `Credentials`, whose values have no text form, and from there only into the
sealed request. No error here quotes anything that was read.
"""

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import typer
from pydantic import SecretStr, ValidationError

from core.errors.keys import RootKeyRefused
from core.keys.root_keys import (
    AwsKmsKeyRef,
    Credentials,
    OpenBaoKeyRef,
    Pkcs11KeyRef,
    Place,
    PlatformKeyRef,
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
    """A file given to the command cannot be used; nothing of it was used."""

    code = "file_refused"


@dataclass(frozen=True, slots=True)
class Source:
    """What the command line says about credentials: a file, and the one part of them that is no secret."""

    file: str | None = None
    access_key_id: str | None = None

    def read(self, place: Place) -> Credentials:
        """Return the credentials for `place`, asking at the terminal for what is missing.

        Raises:
            typer.BadParameter: they can come from nowhere.
            FileRefused: the file cannot be used.
            RootKeyRefused: they are not those that `place` needs.
        """
        given = self._given()
        if isinstance(place, PlatformKeyRef) and not given:
            return Credentials()
        if self.file is None:
            given |= _typed([name for name in _asked_for(place, given) if name not in given])
        credentials = Credentials(**{name: SecretStr(value) for name, value in given.items()})
        refuse_incomplete(place, credentials)
        return credentials

    def _given(self) -> dict[str, str]:
        given = {} if self.file is None else _parsed(_text(self.file))
        if self.access_key_id is not None:
            if "access_key_id" in given:
                raise typer.BadParameter("the file has an access_key_id too: give one", param_hint="--access-key-id")
            given["access_key_id"] = self.access_key_id
        return given


def _asked_for(place: Place, given: dict[str, str]) -> tuple[str, ...]:
    match place:
        case AwsKmsKeyRef(role_arn=None):
            return ("access_key_id", "secret_access_key")
        case AwsKmsKeyRef() if given:
            return ("secret_access_key",)
        case Pkcs11KeyRef():
            return ("pin",)
        case OpenBaoKeyRef(role_id=None):
            return ("token",)
        case OpenBaoKeyRef():
            return ("secret_id",)
    return ()  # a role that the platform's own identity may take


def _typed(names: list[str]) -> dict[str, str]:
    if names and not sys.stdin.isatty():
        wanted = " and ".join(names)
        raise typer.BadParameter(
            f"nobody is at a terminal to be asked for {wanted}: give a JSON object with it in a file of mode 0600, or"
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
                "standard input is a terminal, which would show what is typed: leave this out to be asked for the"
                " credentials without echo",
                param_hint=_OPTION,
            )
        return _limited(sys.stdin.buffer, "standard input")
    try:
        with Path(file).open("rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & _OTHERS:
                raise FileRefused(
                    f"{file} is readable by others",
                    f"chmod 600 {file}; if others use this machine, treat the credentials as stolen and make new ones",
                )
            return _limited(opened, file)
    except OSError:
        raise FileRefused(
            f"{file} cannot be read", f"give a JSON object with the fields of {_FIELDS} that are needed, mode 0600"
        ) from None


def _limited(stream: IO[bytes], name: str) -> bytes:
    text = stream.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise FileRefused(f"{name} is too long for credentials", f"at most {_LONGEST} bytes are read")
    return text


def _parsed(text: bytes) -> dict[str, str]:
    try:
        read = Credentials.model_validate_json(text)
    except ValidationError as wrong:
        raise RootKeyRefused(
            _what_is_wrong(wrong.errors(include_input=False, include_url=False)[0]["loc"]),
            f"a JSON object of texts; the fields are {_FIELDS}",
        ) from None
    return {name: value.get_secret_value() for name, value in read if value is not None}


def _what_is_wrong(where: tuple[Any, ...]) -> str:
    """Name a field of ours; an unknown name may itself be what must not be shown."""
    if not where:
        return "the credentials are not a JSON object"
    if where[0] not in Credentials.model_fields:
        return "the credentials have a field that is not known"
    return f"{where[0]}: not a text"
