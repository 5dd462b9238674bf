"""Output files of a command: written completely or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from openkcm.errors import FileRefused


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file with mode 0600 to write into; it is removed when writing fails.

    An existing file is never replaced: it may be the evidence to compare the new one with.

    Raises:
        FileRefused: the file exists, or it cannot be written.
    """
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise FileRefused(f"{path} already exists", "choose a new name; existing files are never replaced") from None
    except OSError as failed:
        raise FileRefused(f"{path} cannot be created: {failed.strerror}", "choose another path") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as failed:
        path.unlink(missing_ok=True)
        raise FileRefused(f"{path} cannot be written: {failed.strerror}", "free some space and retry") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a public file that other programs read, over an existing one.

    Raises:
        FileRefused: it cannot be written, and an existing file is unchanged.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as failed:
        with suppress(OSError):
            draft.unlink()
        raise FileRefused(f"{path} cannot be written: {failed.strerror}", "choose another path") from None
