"""The one place where psycopg's exceptions become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from core.errors.platform import DatabaseRefused, DatabaseUnavailable

# Trying again can help: connection lost or refused, shutdown, deadlock, serialization, time-outs, a server that has
# become a read-only standby. OperationalError covers SQLSTATE classes 08, 40, 53, 55, 57 and 58.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,
    PoolTimeout,
    PoolClosed,
)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise DatabaseUnavailable or DatabaseRefused for whatever psycopg raises inside."""
    try:
        yield
    except _UNAVAILABLE as lost:
        raise DatabaseUnavailable from lost
    except psycopg.Error as refused:
        # Not chained: the server's detail quotes the row, and rows of a tenant have no place in a log.
        raise DatabaseRefused(_place(refused)) from None


def _place(refused: psycopg.Error) -> str:
    where = refused.diag.constraint_name or refused.diag.table_name or refused.diag.message_primary
    if refused.sqlstate is None or where is None:
        return f"the database client refused the statement: {type(refused).__name__}"
    return f"the database refused the statement: {refused.sqlstate} at {where}"
