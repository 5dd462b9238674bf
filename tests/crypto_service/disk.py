"""A power failure: the folder keeps only what was flushed to disk."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from crypto_service.audit.wal import WalSegment


class Disk:
    """What a disk has of a folder: names as of the last flush of the folder, contents as of that of each file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, int] = {}
        self._contents: dict[int, bytes] = {}
        self._kept: list[int] = []

    def flush(self, descriptor: int) -> None:
        """Record the state of a file or of the folder."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._names = {entry.name: entry.inode() for entry in os.scandir(self._folder)}
        else:
            # The kept descriptor keeps the kernel from using the inode for another file.
            self._kept.append(os.dup(descriptor))
            self._contents[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def lose_power(self) -> None:
        """Drop everything that was not flushed."""
        for path in self._folder.iterdir():
            path.unlink()
        for name, inode in self._names.items():
            (self._folder / name).write_bytes(self._contents.get(inode, b""))

    def close(self) -> None:
        for descriptor in self._kept:
            os.close(descriptor)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """Observe every flush of this process to `folder`."""
    observed = Disk(folder)

    def observing(flush: Callable[[int], None]) -> Callable[[int], None]:
        def flushed(descriptor: int) -> None:
            flush(descriptor)
            observed.flush(descriptor)

        return flushed

    synced = observing(os.fdatasync)
    with patch("os.fsync", observing(os.fsync)), patch.object(WalSegment.__init__, "__kwdefaults__", {"flush": synced}):
        yield observed
    observed.close()
