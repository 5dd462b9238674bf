"""Protected fields of services."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from database.repository import Repository
from openkcm.contract.protected_fields import Mode, ProtectedField, Store


class ProtectionRow(NamedTuple):
    """A service's protected fields and their version, which increases with every change; 0 before the first."""

    version: int
    fields: Sequence[ProtectedField]


class ProtectedFieldRow(NamedTuple):
    """A protected field with the author and time of its last change."""

    field: ProtectedField
    changed_by: str
    changed_at: datetime


class Protection(Repository):
    """Protected fields of a tenant's services. Triggers in the database log every change to the audit stream."""

    def of(self, service: str) -> ProtectionRow:
        """Return the protected fields of one service, in order; none for an unknown service."""
        # One statement, so that version and fields belong together.
        rows = self.connection.execute(
            "select p.version, f.store, f.place, f.field, f.mode, f.plaintext_allowed from okcm.protection p"
            " left join okcm.protected_field f on f.tenant_id = p.tenant_id and f.service = p.service"
            " where p.service = %s order by f.store, f.place, f.field",
            [service],
        ).fetchall()
        version = rows[0][0] if rows else 0
        return ProtectionRow(version, [_field(row[1:]) for row in rows if row[1] is not None])

    def fields(self, service: str) -> Sequence[ProtectedField]:
        return self.of(service).fields

    def by_service(self) -> Mapping[str, Sequence[ProtectedField]]:
        """Return the protected fields of all services that have any."""
        found: dict[str, list[ProtectedField]] = {}
        for row in self.connection.execute(
            "select f.store, f.place, f.field, f.mode, f.plaintext_allowed, f.service"
            " from okcm.protected_field f order by f.store, f.place, f.field"
        ):
            found.setdefault(row[5], []).append(_field(row))
        return found

    def rows(self, service: str) -> Sequence[ProtectedFieldRow]:
        """Return the protected fields of one service, in order, with the author of each."""
        rows = self.connection.execute(
            "select f.store, f.place, f.field, f.mode, f.plaintext_allowed, f.changed_by, f.changed_at"
            " from okcm.protected_field f where f.service = %s order by f.store, f.place, f.field",
            [service],
        )
        return [ProtectedFieldRow(_field(row), row[5], row[6]) for row in rows]

    def lock(self, service: str, by: str) -> None:
        """Lock the service's list until the transaction ends; raise DatabaseRefused for an unknown service."""
        self.connection.execute(
            "insert into okcm.protection (tenant_id, service, changed_by) values (%s, %s, %s) on conflict do nothing",
            [self.tenant_id, service, by],
        )
        self.connection.execute("select from okcm.protection where service = %s for no key update", [service])

    def protect(self, service: str, field: ProtectedField, by: str) -> None:
        """Add a protected field, or change its mode."""
        changed = self.connection.execute(
            "update okcm.protected_field set mode = %s, plaintext_allowed = %s, changed_by = %s"
            " where service = %s and store = %s and place = %s and field = %s",
            [field.mode, field.plaintext_allowed, by, service, field.store, field.place, field.field],
        )
        if changed.rowcount:
            return
        self.connection.execute(
            "insert into okcm.protected_field"
            " (tenant_id, service, store, place, field, mode, plaintext_allowed, changed_by)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [self.tenant_id, service, field.store, field.place, field.field, field.mode, field.plaintext_allowed, by],
        )

    def unprotect(self, service: str, field: ProtectedField, by: str) -> bool:
        """Remove a protected field; return False if it does not exist."""
        which = [service, field.store, field.place, field.field]
        # The trigger logs the author of the deletion from the row, so set the author first.
        self.connection.execute(
            "update okcm.protected_field set changed_by = %s"
            " where service = %s and store = %s and place = %s and field = %s",
            [by, *which],
        )
        gone = self.connection.execute(
            "delete from okcm.protected_field where service = %s and store = %s and place = %s and field = %s", which
        )
        return gone.rowcount == 1


def _field(row: Iterable[object]) -> ProtectedField:
    store, place, field, mode, plaintext_allowed, *_ = row
    return ProtectedField(Store(str(store)), str(place), str(field), Mode(str(mode)), plaintext_allowed is True)
