"""Retention across tenants: which tenants have expired rows or records to archive, and the deletion for one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from database.connection.database import Database
from database.postgres.access import PLATFORM


@dataclass(frozen=True, slots=True)
class RetentionQueries:
    """Queries of the worker; the database enforces the least retention. All raise DatabaseUnavailable and -Refused."""

    database: Database

    def tenants_with_expired_rows(self, table: str, days: int, limit: int) -> Sequence[tuple[str, datetime | None]]:
        """Return tenants with rows of a table that are older than `days`, and the last attempt to delete their rows.

        The oldest attempt comes first, then the oldest row.
        """
        with self.database.raw_tx(PLATFORM) as connection:
            query = "select tenant_id, attempted_at from okcm.tenants_with_expired_rows(%s, %s, %s)"
            return connection.execute(query, [table, days, limit]).fetchall()

    def delete_expired_rows(self, tenant_id: str, table: str, days: int, limit: int) -> int:
        """Delete at most `limit` rows of a tenant that are older than `days`, the oldest first; return their number."""
        with self.database.raw_tx(tenant_id) as connection:
            row = connection.execute("select okcm.delete_expired_rows(%s, %s, %s)", [table, days, limit]).fetchone()
            return 0 if row is None else int(row[0])

    def archivable_streams(self, cutoff: datetime, limit: int) -> Sequence[str]:
        """Return tenants with checkpoints from before `cutoff` to archive, or archived records to delete.

        The oldest attempt comes first, then the oldest checkpoint.
        """
        with self.database.raw_tx(PLATFORM) as connection:
            rows = connection.execute("select okcm.archivable_streams(%s, %s)", [cutoff, limit])
            return [tenant for (tenant,) in rows]
