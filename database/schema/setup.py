"""From an empty PostgreSQL to one the controller can use, and nothing to do the second time."""

from collections.abc import Mapping
from contextlib import suppress

import psycopg
from psycopg import Connection, conninfo, errors, sql

from database.postgres.access import MIGRATOR, OWNER, PROCESSES, login, pads
from database.postgres.errors import translate_errors
from database.schema.migrate import migrate, read_migrations

_LOCK = 0x6F6B6372  # "okcr": roles are shared by the whole server, and two starts may meet


def prepare_database(
    admin_conninfo: str, *, passwords: Mapping[str, str], context_keys: Mapping[str, bytes]
) -> tuple[str, ...]:
    """Create what is missing of database, roles, schema and keys; return the names of migrations applied now.

    Args:
        admin_conninfo: somebody who may create roles and the database it names.
        passwords: of the migrator and of each process.
        context_keys: of each process, 32 to 64 bytes.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the server does not answer, or the administrator may not do this.
        SchemaRefused: see `migrate`.
    """
    with translate_errors():
        with _administrator(admin_conninfo) as administrator:
            database = administrator.info.dbname
            _create_roles(administrator, database, passwords)
        migrator = conninfo.make_conninfo(admin_conninfo, user=login(MIGRATOR), password=passwords[MIGRATOR])
        with psycopg.connect(migrator, autocommit=True) as connection:
            applied = migrate(connection, read_migrations())
            _store_keys(connection, context_keys)
    return applied


def administrator_of(url: str, user: str, password: str) -> str:
    """Return the connection string of an administrator for a database URL without credentials; never log it."""
    return conninfo.make_conninfo(url, user=user, password=password)


def _administrator(admin_conninfo: str) -> Connection:
    name = str(conninfo.conninfo_to_dict(admin_conninfo).get("dbname", ""))
    try:
        return psycopg.connect(admin_conninfo)
    except psycopg.OperationalError as failed:
        # libpq reports a failed start-up without its SQLSTATE; asking the server is more honest than reading the text.
        if not _create_database(admin_conninfo, name):
            raise failed from None
    return psycopg.connect(admin_conninfo)


def _create_database(admin_conninfo: str, name: str) -> bool:
    with psycopg.connect(conninfo.make_conninfo(admin_conninfo, dbname="postgres"), autocommit=True) as connection:
        if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is not None:
            return False
        with suppress(errors.DuplicateDatabase):  # another start was faster
            # Locale C: tenant ids sort by byte everywhere, and no system library upgrade can corrupt an index.
            connection.execute(
                sql.SQL("create database {} template template0 encoding 'UTF8' locale 'C'").format(sql.Identifier(name))
            )
        return True


def _create_roles(administrator: Connection, database: str, passwords: Mapping[str, str]) -> None:
    administrator.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
    names = [OWNER, *(login(role) for role in (MIGRATOR, *PROCESSES))]
    rows = administrator.execute("select rolname from pg_roles where rolname = any(%s)", [names]).fetchall()
    existing = {name for (name,) in rows}
    if OWNER not in existing:
        administrator.execute(sql.SQL("create role {} nologin").format(sql.Identifier(OWNER)))
    for role in (MIGRATOR, *PROCESSES):
        verb = sql.SQL("alter role {} " if login(role) in existing else "create role {} ")
        # Hashed here: the password itself never travels in a statement that a server log could keep. Said again at
        # every start, so that an attribute somebody added by hand does not stay.
        scrambled = administrator.pgconn.encrypt_password(
            passwords[role].encode(), login(role).encode(), b"scram-sha-256"
        ).decode()
        attributes = sql.SQL("login noinherit nocreatedb nocreaterole password {}").format(sql.Literal(scrambled))
        administrator.execute(verb.format(sql.Identifier(login(role))) + attributes)
    if login(MIGRATOR) not in existing:
        # NOINHERIT makes this membership good for SET ROLE and for nothing else, on PostgreSQL 15 as well.
        administrator.execute(sql.SQL("grant {} to {}").format(sql.Identifier(OWNER), sql.Identifier(login(MIGRATOR))))
    if administrator.execute("select to_regnamespace('okcm')").fetchone() == (None,):
        administrator.execute(sql.SQL("create schema okcm authorization {}").format(sql.Identifier(OWNER)))
    _close_to_everybody(administrator, database)


def _close_to_everybody(administrator: Connection, database: str) -> None:
    logins = sql.SQL(", ").join(sql.Identifier(login(role)) for role in (MIGRATOR, *PROCESSES))
    # TEMPORARY too: a temporary table could stand in front of a real one. A database made from a template, or restored,
    # is open again, so this is said at every start.
    administrator.execute(
        sql.SQL(
            "revoke all on database {database} from public; grant connect on database {database} to {logins};"
            "revoke all on schema public from public"
        ).format(database=sql.Identifier(database), logins=logins)
    )


def _store_keys(connection: Connection, context_keys: Mapping[str, bytes]) -> None:
    """Store each process's context key; the connection is the migrator's in the role of the owner."""
    for role in PROCESSES:
        inner, outer = pads(context_keys[role])
        connection.execute(
            "insert into okcm.context_key as kept (role, inner_pad, outer_pad) values (%s, %s, %s)"
            " on conflict (role) do update set inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad"
            " where kept.inner_pad <> excluded.inner_pad",
            [login(role), inner, outer],
        )
