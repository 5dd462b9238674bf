"""Translation of psycopg's exceptions into `DatabaseUnavailable` and `DatabaseRefused`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from core.errors.platform import DatabaseLoginRefused, DatabaseRefused, DatabaseUnavailable, SchemaOutdated
from core.errors.tls import TlsFault, find_tls_fault, with_tls_fault
from database.postgres.deadline import CallTimeout, NotConnected

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

_TLS_FAULTS = {
    "certificate verify failed": TlsFault.NOT_VALID,
    "does not match host name": TlsFault.WRONG_NAME,
    "root certificate file": TlsFault.CA_FILE,
    "server does not support SSL": TlsFault.NO_TLS,
    ", no encryption": TlsFault.TLS_REQUIRED,
    "requires a valid client certificate": TlsFault.CLIENT_CERTIFICATE,
    "alert unknown ca": TlsFault.CLIENT_CERTIFICATE,
}
"""Texts of libpq, which does not report why a certificate is not valid, and of the server."""

_LOGIN_STATES = (errors.InvalidPassword, errors.InvalidAuthorizationSpecification)
_LOGIN_REFUSED = re.compile(
    r"authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects|is not permitted to log in"
    r'|role "[^"\n]*" does not exist|no password supplied'
)
"""SQLSTATE 28P01 and 28000. libpq reports a failed startup without its SQLSTATE, so the server's text must suffice.

A server with messages in another language therefore counts as one that does not answer.
"""

# During an upgrade: the process and the schema do not fit together. A retry succeeds once one of them is replaced.
_SCHEMA_DIFFERS = (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)


@contextmanager
def translate_errors(*, for_operator: bool = False) -> Iterator[None]:
    """Raise DatabaseUnavailable, SchemaOutdated or DatabaseRefused for each exception of psycopg in the block.

    `for_operator` also raises DatabaseLoginRefused; a customer learns only that the database is unavailable.
    """
    try:
        yield
    except _UNAVAILABLE as lost:
        raise (unavailable_for_operator if for_operator else unavailable)(lost) from lost
    except _SCHEMA_DIFFERS as missing:
        raise SchemaOutdated(_describe(missing)) from None
    except psycopg.Error as refused:
        # Not chained: the server's error detail quotes the row, and rows of a tenant must not reach a log.
        raise DatabaseRefused(_describe(refused)) from None


def unavailable(lost: psycopg.Error) -> DatabaseUnavailable:
    """Return the error for a lost or refused connection, with the cause of a failed TLS handshake."""
    return with_tls_fault(DatabaseUnavailable, "the database", str(lost), _TLS_FAULTS)


def is_unreachable(failed: DatabaseUnavailable) -> bool:
    """Return whether the server did not respond or accepted no session, rather than that one transaction was lost.

    The latter is a deadlock, a timeout of the server, or a session that the server or an administrator ended.
    """
    return isinstance(failed.__cause__, PoolTimeout | NotConnected | CallTimeout)


def unavailable_for_operator(lost: psycopg.Error) -> DatabaseUnavailable:
    """Return the error as `unavailable` does, or DatabaseLoginRefused."""
    return DatabaseLoginRefused() if is_login_refused(lost) else unavailable(lost)


def is_login_refused(lost: psycopg.Error) -> bool:
    """Return whether the server rejected user or password, and not the encryption of the connection."""
    text = str(lost)
    refused = isinstance(lost, _LOGIN_STATES) or _LOGIN_REFUSED.search(text) is not None
    return refused and find_tls_fault(text, _TLS_FAULTS) is None


def _describe(refused: psycopg.Error) -> str:
    where = refused.diag.constraint_name or refused.diag.table_name or refused.diag.message_primary
    if refused.sqlstate is None or where is None:
        return f"the database client rejected the statement: {type(refused).__name__}"
    return f"the database rejected the statement: {refused.sqlstate} at {where}"
