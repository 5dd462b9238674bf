"""Files that a command hands out: whole or not there, and never in the place of another one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from openkcm.errors import FileRefused


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file, 0600, to write into; it is gone again when the writing fails.

    What lies under the name already is kept: it may be the evidence that the new one is to be held against.

    Raises:
        FileRefused: there is a file of that name, or it cannot be written.
    """
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise FileRefused(f"{path} is there already", "choose a new name: it is not written over") from None
    except OSError as failed:
        raise FileRefused(f"{path} cannot be made: {failed.strerror}", "choose another place") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as failed:
        path.unlink(missing_ok=True)
        raise FileRefused(f"{path} cannot be written: {failed.strerror}", "free some space and run it again") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
