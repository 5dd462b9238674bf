"""Services' protected fields.

Services' protected fields: rows and contract; handed out by `interfaces`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from openkcm.contract.protected_fields import Mode, ProtectedField, Store


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


@dataclass(frozen=True, slots=True)
class Protection:
    """Every change is put on record in the tenant's audit stream by the database itself."""

    connection: Connection[TupleRow]
    tenant_id: str

    def of(self, service: str) -> ProtectionRow:
        # One statement, so that the version is that of these fields.
        """Return the list of one service, by name; nothing for a service that is not there."""
        rows = self.connection.execute(
            "select p.version, f.store, f.place, f.field, f.mode, f.plain_allowed from okcm.protection p"
            " left join okcm.protected_field f on f.tenant_id = p.tenant_id and f.service = p.service"
            " where p.service = %s order by f.store, f.place, f.field",
            [service],
        ).fetchall()
        version = rows[0][0] if rows else 0
        return ProtectionRow(version, [_field(row[1:]) for row in rows if row[1] is not None])

    def fields(self, service: str) -> Sequence[ProtectedField]:
        return self.of(service).fields

    def by_service(self) -> Mapping[str, Sequence[ProtectedField]]:
        """Return the lists of all services that have one."""
        found: dict[str, list[ProtectedField]] = {}
        for row in self.connection.execute(
            "select f.store, f.place, f.field, f.mode, f.plain_allowed, f.service"
            " from okcm.protected_field f order by f.store, f.place, f.field"
        ):
            found.setdefault(row[5], []).append(_field(row))
        return found

    def rows(self, service: str) -> Sequence[ProtectedFieldRow]:
        """Return the list of one service, by name, with who changed what."""
        rows = self.connection.execute(
            "select f.store, f.place, f.field, f.mode, f.plain_allowed, f.changed_by, f.changed_at"
            " from okcm.protected_field f where f.service = %s order by f.store, f.place, f.field",
            [service],
        )
        return [ProtectedFieldRow(_field(row), row[5], row[6]) for row in rows]

    def lock(self, service: str, by: str) -> None:
        """Let nobody else change the service's list until the end; raises DatabaseRefused for an unknown service."""
        self.connection.execute(
            "insert into okcm.protection (tenant_id, service, changed_by) values (%s, %s, %s) on conflict do nothing",
            [self.tenant_id, service, by],
        )
        self.connection.execute("select from okcm.protection where service = %s for no key update", [service])

    def protect(self, service: str, field: ProtectedField, by: str) -> None:
        """Add a field to the list, or change how it is protected."""
        changed = self.connection.execute(
            "update okcm.protected_field set mode = %s, plain_allowed = %s, changed_by = %s"
            " where service = %s and store = %s and place = %s and field = %s",
            [field.mode, field.plain_allowed, by, service, field.store, field.place, field.field],
        )
        if changed.rowcount:
            return
        self.connection.execute(
            "insert into okcm.protected_field"
            " (tenant_id, service, store, place, field, mode, plain_allowed, changed_by)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s)",
            [self.tenant_id, service, field.store, field.place, field.field, field.mode, field.plain_allowed, by],
        )

    def unprotect(self, service: str, field: ProtectedField, by: str) -> bool:
        """Take a field off the list; False when it is not there."""
        which = [service, field.store, field.place, field.field]
        # Who did it stands on the row before it goes: that is what the record of its going says.
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
    store, place, field, mode, plain_allowed, *_ = row
    return ProtectedField(Store(str(store)), str(place), str(field), Mode(str(mode)), plain_allowed is True)
