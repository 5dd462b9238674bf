"""The tenant's keys by name (MTCI M1); the keys themselves never leave Vault."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from database.interfaces import KeyRow
from tenancy.errors import ConflictingResource


@dataclass(frozen=True, slots=True)
class Keys:
    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, name: str, kind: str, version: int) -> None:
        recorded = self.connection.execute(
            "insert into okcm.key (tenant_id, name, kind, version) values (%s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, name, kind, version],
        )
        if recorded.rowcount == 1:
            return
        kept = self.connection.execute("select kind, version from okcm.key where name = %s", [name]).fetchone()
        if kept != (kind, version):
            raise ConflictingResource("key", name, f"on record is {kept}, not {(kind, version)}")

    def all(self) -> Sequence[KeyRow]:
        rows = self.connection.execute("select name, kind, version, created_at from okcm.key order by name")
        return [KeyRow(*row) for row in rows]
