"""A database administrator restores a tenant's rows from a copy and bypasses every policy, trigger and reference."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from psycopg import Connection, sql

from database.postgres.change_feed import object_hash, tenant_hash
from tests.e2e.stack import Stack

TABLES = (
    *("tenant", "key", "certificate_authority", "route", "service", "service_certificate", "service_key"),
    "managed_object",
)
"""The tables that the crypto service reads to authenticate a service and to decrypt."""
_BEFORE, _AFTER = "copied_before", "copied_after"


def copy_rows(stack: Stack, tenant_id: str, tables: Iterable[str] = TABLES) -> None:
    """Copy the rows of a tenant."""
    with stack.owner() as owner:
        _copy(owner, _BEFORE, tenant_id, tables)


@contextmanager
def rows_restored(stack: Stack, tenant_id: str, tables: Iterable[str] = TABLES) -> Iterator[None]:
    """Restore the copied rows with their notifications during the block."""
    with stack.owner() as owner:
        owner.execute("set session_replication_role = replica")
        _copy(owner, _AFTER, tenant_id, tables)
        _replace(owner, _BEFORE, tenant_id, tables)
        try:
            yield
        finally:
            _replace(owner, _AFTER, tenant_id, tables)
            for schema in (_BEFORE, _AFTER):
                owner.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))


def _copy(owner: Connection, schema: str, tenant_id: str, tables: Iterable[str]) -> None:
    owner.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    for table in tables:
        copied, original = sql.Identifier(schema, table), sql.Identifier("okcm", table)
        owner.execute(
            sql.SQL("create table {} as select * from {} where tenant_id = {}").format(copied, original, tenant_id)
        )


def _replace(owner: Connection, schema: str, tenant_id: str, tables: Iterable[str]) -> None:
    with owner.transaction():
        for table in tables:
            original = sql.Identifier("okcm", table)
            columns = owner.execute(
                "select column_name from information_schema.columns"
                " where table_schema = 'okcm' and table_name = %s and is_generated = 'NEVER' order by 1",
                [table],
            ).fetchall()
            names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns)
            owner.execute(sql.SQL("delete from {} where tenant_id = {}").format(original, tenant_id))
            owner.execute(
                sql.SQL("insert into {} ({}) overriding system value select {} from {}").format(
                    original, names, names, sql.Identifier(schema, table)
                )
            )
        for changed in (tenant_hash(tenant_id), object_hash(tenant_id)):
            owner.execute(
                "insert into okcm.cache_change (hash) values (decode(%s, 'hex')) on conflict do nothing", [changed]
            )
