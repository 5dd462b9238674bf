"""Translation of psycopg's exceptions into `DatabaseUnavailable` and `DatabaseRefused`."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from core.errors.platform import DatabaseRefused, DatabaseUnavailable, SchemaOutdated

# A retry can succeed: connection lost or refused, shutdown, deadlock, serialization failure, timeout, a server that is
# now a read-only standby. OperationalError covers the SQLSTATE classes 08, 40, 53, 55, 57 and 58.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,
    PoolTimeout,
    PoolClosed,
)

# During an upgrade: the process and the schema do not fit together. A retry succeeds once one of them is replaced.
_SCHEMA_DIFFERS = (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise DatabaseUnavailable, SchemaOutdated or DatabaseRefused for each exception of psycopg in the block."""
    try:
        yield
    except _UNAVAILABLE as lost:
        raise DatabaseUnavailable from lost
    except _SCHEMA_DIFFERS as missing:
        raise SchemaOutdated(_describe(missing)) from None
    except psycopg.Error as refused:
        # Not chained: the server's error detail quotes the row, and rows of a tenant must not reach a log.
        raise DatabaseRefused(_describe(refused)) from None


def _describe(refused: psycopg.Error) -> str:
    where = refused.diag.constraint_name or refused.diag.table_name or refused.diag.message_primary
    if refused.sqlstate is None or where is None:
        return f"the database client rejected the statement: {type(refused).__name__}"
    return f"the database rejected the statement: {refused.sqlstate} at {where}"
