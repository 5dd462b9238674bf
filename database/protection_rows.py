"""Services' protected fields: rows and contract; handed out by `interfaces`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tenancy.protection import ProtectedField


@dataclass(frozen=True, slots=True)
class ProtectionRow:
    """One service's list and its version, which rises with every change; 0 and none before the first."""

    version: int
    fields: Sequence[ProtectedField]


@dataclass(frozen=True, slots=True)
class ProtectedFieldRow:
    """A field with who changed it last."""

    field: ProtectedField
    changed_by: str
    changed_at: datetime


class Protection(Protocol):
    """Every change is put on record in the tenant's audit stream by the database itself."""

    def of(self, service: str) -> ProtectionRow:
        """Return the list of one service, by name; nothing for a service that is not there."""
        ...

    def fields(self, service: str) -> Sequence[ProtectedField]: ...

    def by_service(self) -> Mapping[str, Sequence[ProtectedField]]:
        """Return the lists of all services that have one."""
        ...

    def rows(self, service: str) -> Sequence[ProtectedFieldRow]:
        """Return the list of one service, by name, with who changed what."""
        ...

    def lock(self, service: str, by: str) -> None:
        """Let nobody else change the service's list until the end; raises DatabaseRefused for an unknown service."""
        ...

    def protect(self, service: str, field: ProtectedField, by: str) -> None:
        """Add a field to the list, or change how it is protected."""
        ...

    def unprotect(self, service: str, field: ProtectedField, by: str) -> bool:
        """Take a field off the list; False when it is not there."""
        ...
