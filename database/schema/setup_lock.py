"""The locks that let only one setup of a database run at a time, and the session that holds one."""

from collections.abc import Callable
from typing import Literal

import psycopg
from psycopg import errors, sql

from core.errors.platform import DatabaseUnavailable

APPLICATION_NAME = "openkcmctl setup database"
LOCK_SECONDS = 900.0
"""How long a setup waits for another one: for all attempts of several migrations, or for the locks of one index.

A session that holds the lock longer builds a large index, or its client is lost and the server has not noticed it.
"""
_FIRST_SECONDS = 1.0
"""The wait before the holder is reported: most setups end within it."""
_HOLDER = """
    select pid, usename, application_name, to_char(backend_start at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
    from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and classid = 0 and objid = %s and objsubid = 1 and granted
        and database = (select oid from pg_database where datname = current_database())
"""


def acquire_lock(
    connection: psycopg.Connection,
    lock: Literal["pg_advisory_lock", "pg_advisory_xact_lock"],
    key: int,
    report: Callable[[str], None],
    seconds: float,
) -> None:
    """Acquire an advisory lock; `key` has 32 bits, and a transaction of `connection` may only just have begun.

    `report` receives a line about the session that holds the lock.

    Raises:
        DatabaseUnavailable: another session held the lock for all of `seconds`; its work is not interrupted.
    """
    holder, remedy = "another session", "select pid from pg_locks where locktype = 'advisory'"
    for wait in (min(_FIRST_SECONDS, seconds), seconds):
        try:
            connection.execute("select set_config('lock_timeout', %s, false)", [f"{wait * 1000:.0f}ms"])
            connection.execute(sql.SQL("select {}(%s)").format(sql.SQL(lock)), [key])
            connection.execute("reset lock_timeout")
        except errors.LockNotAvailable:
            connection.rollback()
            found = connection.execute(_HOLDER, [key]).fetchone()
            if found is not None:
                pid, user, application, since = found
                holder = f"session {pid} ({application or 'no application name'}, {user}, since {since or '?'} UTC)"
                remedy = f"select pg_terminate_backend({pid})"
            if wait < seconds:
                report(f"waits for another setup of this database, at most {seconds:g} s: {holder}")
        else:
            return
    raise DatabaseUnavailable(
        f"another setup of this database did not end in {seconds:g} s: {holder}; the schema was not changed",
        f"wait for its end and repeat the command; if its client no longer runs, end its session: {remedy}",
    )
