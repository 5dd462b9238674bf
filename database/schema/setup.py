"""Preparation of a PostgreSQL server for the controller; idempotent."""

from collections.abc import Mapping
from contextlib import suppress

import psycopg
from psycopg import Connection, conninfo, errors, sql

from core.errors.platform import DatabaseRefused, SchemaRefused
from database.postgres.access import MIGRATOR, OWNER, PROCESSES, login, pads
from database.postgres.deadline import LIVENESS, DeadlineConnection
from database.postgres.errors import translate_errors
from database.schema.migrate import migrate, missing_migrations, read_migrations

_LOCK = 0x6F6B6372  # "okcr": all databases of a server share its roles, and two processes may start at once
_ADMINISTRATOR_HINT = (
    "use a role with LOGIN, CREATEROLE and CREATEDB that owns the database, or a superuser;"
    " after the first setup use the same role again (docs/own-servers.md#prepare-the-servers)"
)


def prepare_database(
    admin_conninfo: str, *, passwords: Mapping[str, str], context_keys: Mapping[str, bytes]
) -> tuple[str, ...]:
    """Create missing parts of database, roles, schema and keys; return the names of the migrations applied now.

    Args:
        admin_conninfo: connection string of a role that may create roles and owns the named database or may create it;
            it need not be a superuser.
        passwords: password of the migrator and of each process.
        context_keys: context key of each process, 32 to 64 bytes.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the server does not respond, or the administrator lacks a right.
        SchemaRefused: see `migrate`.
    """
    with translate_errors():
        _prepare_as_administrator(admin_conninfo, passwords)
        migrator = conninfo.make_conninfo(admin_conninfo, user=login(MIGRATOR), password=passwords[MIGRATOR])
        with _connect(migrator, autocommit=True) as connection:
            applied = migrate(connection, read_migrations())
            _store_keys(connection, context_keys)
    return applied


def require_prepared(url: str, migrator_password: str) -> None:
    """Reject a database that `prepare_database` of this version has not prepared; change nothing.

    Raises:
        DatabaseUnavailable: the server does not respond, or the migrator cannot log in.
        SchemaRefused: a migration is missing; or see `migrate`.
    """
    with (
        translate_errors(),
        DeadlineConnection.connect(url, user=login(MIGRATOR), password=migrator_password, **LIVENESS) as connection,
    ):
        if missing_migrations(connection, read_migrations()):
            raise SchemaRefused("the database lacks migrations of this version", "run openkcmctl setup database")


def administrator_of(url: str, user: str, password: str) -> str:
    """Return the connection string of an administrator for a database URL without credentials; never log it."""
    return conninfo.make_conninfo(url, user=user, password=password)


def _administrator(admin_conninfo: str) -> Connection:
    name = str(conninfo.conninfo_to_dict(admin_conninfo).get("dbname", ""))
    try:
        return _connect(admin_conninfo)
    except psycopg.OperationalError as failed:
        # libpq reports a failed startup without its SQLSTATE; a query of the server is safer than parsing the message.
        if not _create_database(admin_conninfo, name):
            raise failed from None
    return _connect(admin_conninfo)


def _connect(address: str, *, autocommit: bool = False) -> Connection:
    # No deadline for a call: a migration takes as long as its table requires.
    return psycopg.connect(address, autocommit=autocommit, **LIVENESS)


def _create_database(admin_conninfo: str, name: str) -> bool:
    with _connect(conninfo.make_conninfo(admin_conninfo, dbname="postgres"), autocommit=True) as connection:
        if connection.execute("select from pg_database where datname = %s", [name]).fetchone() is not None:
            return False
        with suppress(errors.DuplicateDatabase):  # another start was faster
            # Locale C: tenant ids sort by byte on every system, and an upgrade of a system library corrupts no index.
            connection.execute(
                sql.SQL("create database {} template template0 encoding 'UTF8' locale 'C'").format(sql.Identifier(name))
            )
        return True


def _prepare_as_administrator(admin_conninfo: str, passwords: Mapping[str, str]) -> None:
    """Create the database if it does not exist; create roles and schema and revoke default rights in one transaction.

    Raises:
        DatabaseRefused: the administrator lacks a right.
    """
    try:
        with _administrator(admin_conninfo) as administrator:
            administrator.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            # Without this check, PostgreSQL would only warn that the rights of PUBLIC cannot be revoked.
            owned = administrator.execute(
                "select pg_has_role(current_user, datdba, 'usage') from pg_database where datname = current_database()"
            )
            if owned.fetchone() != (True,):
                raise DatabaseRefused("the administrator does not own the database", _ADMINISTRATOR_HINT)
            _create_roles(administrator, passwords)
            _create_schema(administrator)
            _revoke_from_public(administrator, administrator.info.dbname)
    except errors.InsufficientPrivilege as denied:
        raise DatabaseRefused(
            f"the administrator lacks a right: {denied.diag.message_primary}", _ADMINISTRATOR_HINT
        ) from None


def _create_roles(administrator: Connection, passwords: Mapping[str, str]) -> None:
    names = [OWNER, *(login(role) for role in (MIGRATOR, *PROCESSES))]
    rows = administrator.execute("select rolname from pg_roles where rolname = any(%s)", [names]).fetchall()
    existing = {name for (name,) in rows}
    if OWNER not in existing:
        administrator.execute(sql.SQL("create role {} nologin").format(sql.Identifier(OWNER)))
    for role in (MIGRATOR, *PROCESSES):
        verb = sql.SQL("alter role {} " if login(role) in existing else "create role {} ")
        # Hashed here, so that the password is never part of a statement that the server may log. Set at every start,
        # so that an attribute that an administrator added manually does not remain.
        scrambled = administrator.pgconn.encrypt_password(
            passwords[role].encode(), login(role).encode(), b"scram-sha-256"
        ).decode()
        attributes = sql.SQL("login noinherit nocreatedb nocreaterole password {}").format(sql.Literal(scrambled))
        administrator.execute(verb.format(sql.Identifier(login(role))) + attributes)
    if login(MIGRATOR) not in existing:
        # With NOINHERIT, this membership permits only SET ROLE, on PostgreSQL 15 as well.
        administrator.execute(sql.SQL("grant {} to {}").format(sql.Identifier(OWNER), sql.Identifier(login(MIGRATOR))))


def _create_schema(administrator: Connection) -> None:
    if administrator.execute("select to_regnamespace('okcm')").fetchone() != (None,):
        return
    owner = sql.Identifier(OWNER)
    # Only a member may create a schema for the owner. A superuser needs no membership; any other administrator may
    # grant it to itself, and has it until the end of this transaction only.
    administrator.execute(sql.SQL("grant {} to current_user").format(owner))
    administrator.execute(sql.SQL("create schema okcm authorization {}").format(owner))
    administrator.execute(sql.SQL("revoke {} from current_user").format(owner))


def _revoke_from_public(administrator: Connection, database: str) -> None:
    logins = sql.SQL(", ").join(sql.Identifier(login(role)) for role in (MIGRATOR, *PROCESSES))
    # TEMPORARY too: a temporary table could shadow a real one. A database that was restored or created from a template
    # has the default rights again, so they are revoked at every start.
    administrator.execute(
        sql.SQL(
            "revoke all on database {database} from public; grant connect on database {database} to {logins};"
            "revoke all on schema public from public"
        ).format(database=sql.Identifier(database), logins=logins)
    )


def _store_keys(connection: Connection, context_keys: Mapping[str, bytes]) -> None:
    """Store the context key of each process; `connection` is the migrator's, with the role of the owner."""
    for role in PROCESSES:
        inner, outer = pads(context_keys[role])
        connection.execute(
            "insert into okcm.context_key as kept (role, inner_pad, outer_pad) values (%s, %s, %s)"
            " on conflict (role) do update set inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad"
            " where kept.inner_pad <> excluded.inner_pad",
            [login(role), inner, outer],
        )
