"""The tenant's audit stream. Order, time and chain are given by `okcm.audit_append_all` inside the stream's lock."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from database.interfaces import SignedHead
from tenancy.audit import AuditEvent, StoredRecord
from tenancy.errors import DatabaseRefused


@dataclass(frozen=True, slots=True)
class AuditStream:
    connection: Connection[TupleRow]
    tenant_id: str

    def append(self, event: AuditEvent) -> int:
        appended = self.connection.execute("select okcm.audit_append(%s::jsonb)", [event.as_json()]).fetchone()
        if appended is None:
            raise DatabaseRefused
        return int(appended[0])

    def append_all(self, events: Sequence[AuditEvent]) -> None:
        if events:
            array = f"[{', '.join(event.as_json() for event in events)}]"
            self.connection.execute("select okcm.audit_append_all(%s::jsonb)", [array])

    def records(self, after: int = 0, limit: int = 1000) -> Sequence[StoredRecord]:
        rows = self.connection.execute(
            "select seq, record, chain_hash from okcm.audit_event where seq > %s order by seq limit %s", [after, limit]
        )
        return [StoredRecord(*row) for row in rows]

    def head(self) -> StoredRecord | None:
        newest = self.connection.execute(
            "select seq, record, chain_hash from okcm.audit_event order by seq desc limit 1"
        ).fetchone()
        return None if newest is None else StoredRecord(*newest)

    def save_signed_head(self, head: SignedHead) -> None:
        self.connection.execute(
            "select okcm.audit_save_signed_head(%s, %s, %s, %s)", [head.seq, head.chain_hash, head.signature, head.key]
        )

    def signed_heads(self) -> Sequence[SignedHead]:
        rows = self.connection.execute(
            "select seq, chain_hash, signature, key from okcm.audit_signed_head order by seq"
        )
        return [SignedHead(*row) for row in rows]
