"""The tenant's crypto-shred certificate (tenancy/shred.py), made once at the end of leaving."""

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class Shreds:
    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, statement: str, signature: str, key: str, issued_at: datetime) -> None:
        self.connection.execute(
            "insert into okcm.shred_certificate (tenant_id, statement, signature, key, issued_at)"
            " values (%s, %s, %s, %s, %s) on conflict do nothing",
            [self.tenant_id, statement, signature, key, issued_at],
        )

    def get(self) -> tuple[str, str, str] | None:
        row = self.connection.execute("select statement, signature, key from okcm.shred_certificate").fetchone()
        return None if row is None else (row[0], row[1], row[2])
