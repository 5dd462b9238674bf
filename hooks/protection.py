"""Which fields are protected, as the service's folder says; comments in a PostgreSQL database can add to it."""

import json
from pathlib import Path

from tenancy.protection import Mode, ProtectedField, Store

FILE = "protection.json"


class ProtectionUnreadable(Exception):
    """The list is there and cannot be understood, so nothing may be sent."""


class FileProtection:
    """The list in `protection.json`, as GET /v1/protection answers it; read again whenever the file changes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._seen: tuple[int, int] | None = None
        self._fields: tuple[ProtectedField, ...] = ()

    def fields(self) -> tuple[ProtectedField, ...]:
        """Return the protected fields of all stores; none where there is no file. Raises ProtectionUnreadable."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._fields = None, ()
            return ()
        except OSError as failed:
            raise ProtectionUnreadable(f"{FILE} cannot be read") from failed
        seen = (status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._fields = self._read()
            self._seen = seen
        return self._fields

    def _read(self) -> tuple[ProtectedField, ...]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            return tuple(
                ProtectedField(
                    Store(one["store"]),
                    str(one["place"]),
                    str(one["field"]),
                    Mode(one["mode"]),
                    one.get("plain_allowed") is True,
                )
                for one in document["fields"]
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as failed:
            raise ProtectionUnreadable(f"{FILE} is not a list of protected fields") from failed
