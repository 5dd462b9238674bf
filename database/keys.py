"""The tenant's keys by name (MTCI M1); the keys themselves never leave Vault."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from core.errors.platform import ConflictingResource
from database.rows import KeyRow

_KEY = "select name, kind, version, created_at, oldest, rotated_at from okcm.key"


@dataclass(frozen=True, slots=True)
class Keys:
    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, name: str, kind: str, version: int) -> None:
        """Record a key once; the same name again must be the same kind and version or it raises."""
        recorded = self.connection.execute(
            "insert into okcm.key (tenant_id, name, kind, version) values (%s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, name, kind, version],
        )
        if recorded.rowcount == 1:
            return
        kept = self.connection.execute("select kind, version from okcm.key where name = %s", [name]).fetchone()
        if kept != (kind, version):
            raise ConflictingResource("key", name, f"on record is {kept}, not {(kind, version)}")

    def get(self, name: str) -> KeyRow | None:
        row = self.connection.execute(f"{_KEY} where name = %s", [name]).fetchone()
        return None if row is None else KeyRow(*row)

    def all(self) -> Sequence[KeyRow]:
        return [KeyRow(*row) for row in self.connection.execute(f"{_KEY} order by name")]
