"""Usage by the minute, counted once however often a batch is delivered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow

from database.interfaces import UsageRow, UsageTotalRow
from tenancy.services import CryptoOperation

# One statement, one round trip. The rows of a batch are summed first (ON CONFLICT can touch a row once) and written in
# one order (two processes that count the same minutes must not wait for each other). A batch is remembered for longer
# than any journal lies about undelivered, then forgotten.
_ADD = """
with fresh as (
    insert into okcm.usage_batch (tenant_id, batch_id) values (%(tenant)s, %(batch)s)
    on conflict do nothing returning 1
), forgotten as (
    delete from okcm.usage_batch where added_at < now() - interval '90 days'
), added as (
    insert into okcm.usage_minute as kept (tenant_id, minute, service, operation, count, refused, bytes)
    select %(tenant)s, minute, service, operation, sum(count), sum(refused), sum(bytes)
    from unnest(%(minutes)s::timestamptz[], %(services)s::text[], %(operations)s::text[],
                %(counts)s::bigint[], %(refused)s::bigint[], %(bytes)s::bigint[])
        as used (minute, service, operation, count, refused, bytes)
    where exists (select from fresh)
    group by minute, service, operation order by minute, service, operation
    on conflict (tenant_id, minute, service, operation) do update set count = kept.count + excluded.count,
        refused = kept.refused + excluded.refused, bytes = kept.bytes + excluded.bytes
)
select count(*) from fresh
"""


@dataclass(frozen=True, slots=True)
class Usage:
    connection: Connection[TupleRow]
    tenant_id: str

    def add(self, rows: Sequence[UsageRow], batch_id: str) -> bool:
        added = self.connection.execute(
            _ADD,
            {
                "tenant": self.tenant_id,
                "batch": batch_id,
                "minutes": [row.minute for row in rows],
                "services": [row.service for row in rows],
                "operations": [*map(str, (row.operation for row in rows))],
                "counts": [row.count for row in rows],
                "refused": [row.refused for row in rows],
                "bytes": [row.bytes for row in rows],
            },
        ).fetchone()
        return added == (1,)

    def between(self, since: datetime, until: datetime) -> Sequence[UsageRow]:
        rows = self.connection.execute(
            "select minute, service, operation, count, refused, bytes from okcm.usage_minute"
            " where minute >= %s and minute < %s order by minute, service, operation",
            [since, until],
        )
        return [
            UsageRow(minute, service, CryptoOperation(operation), *rest) for minute, service, operation, *rest in rows
        ]

    def totals(self, since: datetime, until: datetime) -> Sequence[UsageTotalRow]:
        rows = self.connection.execute(
            "select service, operation, sum(count)::bigint, sum(refused)::bigint, max(minute) from okcm.usage_minute"
            " where minute >= %s and minute < %s group by service, operation order by service, operation",
            [since, until],
        )
        return [UsageTotalRow(service, CryptoOperation(operation), *rest) for service, operation, *rest in rows]
