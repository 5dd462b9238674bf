"""Files of a service's folder: readable by the owner only, and replaced atomically."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

_SECRET_BYTES = 4
DRAFT = r"\..+\.[0-9a-f]{8}"
"""Name of a draft; a draft that is left over belongs to a writer that was killed."""


def open_folder(path: Path) -> int:
    """Return a descriptor of a folder that is not itself a symbolic link; raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def write_whole(folder: int, name: str, content: bytes) -> None:
    """Replace a file of an open folder atomically, with mode 0600.

    A concurrent reader sees the old file or the new one, also after a power failure. Raises OSError, and then the file
    is unchanged.
    """
    draft = write_draft(folder, name, content)
    try:
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        forget_draft(folder, draft)
        raise
    os.fsync(folder)


def write_draft(folder: int, name: str, content: bytes) -> str:
    """Write and sync a new file with a unique name, and return the name; raises OSError after removing it."""
    draft = f".{name}.{secrets.token_hex(_SECRET_BYTES)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        forget_draft(folder, draft)
        raise
    return draft


def forget_draft(folder: int, draft: str) -> None:
    with suppress(OSError):
        os.unlink(draft, dir_fd=folder)
