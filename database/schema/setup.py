"""Preparation of a PostgreSQL server for the controller; idempotent."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress

import psycopg
from psycopg import Connection, conninfo, errors, sql

from core.errors.platform import DatabaseRefused, SchemaRefused, SecretsDiffer
from core.existing_secrets import ExistingSecrets
from database.postgres.access import MIGRATOR, OWNER, PROCESSES, SESSION_SETTINGS, login, pads
from database.postgres.deadline import LIVENESS, DeadlineConnection
from database.postgres.errors import translate_errors
from database.schema.migrate import migrate, missing_migrations, read_migrations
from database.schema.setup_lock import APPLICATION_NAME, LOCK_SECONDS, acquire_lock

_LOGINS = {login(role): role for role in (MIGRATOR, *PROCESSES)}
_LOCK = 0x6F6B6372  # "okcr": all databases of a server share its roles, and two processes may start at once
_ADMINISTRATOR_HINT = (
    "use a role with LOGIN, CREATEROLE and CREATEDB that owns the database, or a superuser;"
    " after the first setup use the same role again (docs/own-servers.md#prepare-the-servers)"
)


def prepare_database(  # noqa: PLR0913 - address, two kinds of secrets and three choices
    admin_conninfo: str,
    *,
    passwords: Mapping[str, str],
    context_keys: Mapping[str, bytes],
    existing: ExistingSecrets = ExistingSecrets.KEEP,
    report: Callable[[str], None] = lambda _progress: None,
    lock_seconds: float = LOCK_SECONDS,
) -> tuple[str, ...]:
    """Create missing parts of database, roles, schema and keys; return the names of the migrations applied now.

    Args:
        admin_conninfo: connection string of a role that may create roles and owns the named database or may create it;
            it need not be a superuser.
        passwords: password of the migrator and of each process.
        context_keys: context key of each process, 32 to 64 bytes.
        existing: what to do with other passwords and context keys that the server already has; before KEEP the caller
            requires `require_same_secrets`.
        report: receives the progress of a setup or migration that waits.
        lock_seconds: how long to wait for another setup of the database.

    Raises:
        DatabaseUnavailable, DatabaseLoginRefused, DatabaseRefused: the server does not respond, rejects the
            administrator's login, or the administrator lacks a right.
        SchemaRefused: see `migrate`.
    """
    with translate_errors(for_operator=True):
        _prepare_as_administrator(admin_conninfo, passwords, existing, report, lock_seconds)
        migrator = conninfo.make_conninfo(admin_conninfo, user=login(MIGRATOR), password=passwords[MIGRATOR])
        with _connect(migrator, autocommit=True) as connection:
            applied = migrate(connection, read_migrations(), report=report, lock_seconds=lock_seconds)
            with connection.transaction():
                _store_keys(connection, context_keys, existing)
    return applied


def require_same_secrets(admin_conninfo: str, passwords: Mapping[str, str], context_keys: Mapping[str, bytes]) -> None:
    """Reject passwords and context keys that differ from those of a server that is already set up; change nothing.

    Roles may lack a password or key, and are rejected if the server has them.

    Raises:
        SecretsDiffer: with each difference.
        DatabaseUnavailable: the server does not respond.
    """
    with translate_errors(for_operator=True):
        with _connect_to_server(admin_conninfo) as administrator:
            found = "select rolname from pg_roles where rolname = any(%s)"
            roles = [_LOGINS[name] for (name,) in administrator.execute(found, [list(_LOGINS)])]
        differences = [f"this host has no password of {login(role)}" for role in roles if role not in passwords]
        differences += [
            f"this host has no context key of {login(role)}"
            for role in roles
            if role != MIGRATOR and role not in context_keys
        ]
        if not differences:
            refusals = (_refused_login(admin_conninfo, role, passwords[role]) for role in roles)
            differences += [refusal for refusal in refusals if refusal]
        if not differences and MIGRATOR in roles:
            stored = _stored_keys(admin_conninfo, passwords[MIGRATOR])
            for role, key in context_keys.items():
                if pads(key) not in stored.get(login(role), {pads(key)}):
                    differences.append(f"{login(role)} has another context key")
    if differences:
        raise SecretsDiffer("database server", "; ".join(differences))


def require_prepared(url: str, migrator_password: str) -> None:
    """Reject a database that `prepare_database` of this version has not prepared; change nothing.

    Raises:
        DatabaseUnavailable, DatabaseLoginRefused: the server does not respond, or the migrator cannot log in.
        SchemaRefused: a migration is missing; or see `migrate`.
    """
    with (
        translate_errors(for_operator=True),
        DeadlineConnection.connect(url, user=login(MIGRATOR), password=migrator_password, **LIVENESS) as connection,
    ):
        if missing_migrations(connection, read_migrations()):
            raise SchemaRefused("the database lacks migrations of this version", "run openkcmctl setup database")


def administrator_of(url: str, user: str, password: str) -> str:
    """Return the connection string of an administrator for a database URL without credentials; never log it."""
    return conninfo.make_conninfo(url, user=user, password=password)


def _refused_login(admin_conninfo: str, role: str, password: str) -> str | None:
    """Return why a role cannot log in: SQL shows the verifier of a password only to a superuser."""
    try:
        _connect_to_server(admin_conninfo, user=login(role), password=password).close()
    except psycopg.OperationalError as refused:
        return f"{login(role)} cannot log in ({str(refused).strip().rpartition('FATAL:')[2].strip()})"
    return None


def _stored_keys(admin_conninfo: str, password: str) -> Mapping[str, set[tuple[bytes, bytes]]]:
    """Return the context keys in the database by login role; none before its first migration."""
    found: defaultdict[str, set[tuple[bytes, bytes]]] = defaultdict(set)
    with _connect_to_server(admin_conninfo, user=login(MIGRATOR), password=password) as connection:
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(OWNER)))
        if connection.execute("select to_regclass('okcm.context_key')").fetchone() == (None,):
            return found
        for role, inner, outer in connection.execute("select role, inner_pad, outer_pad from okcm.context_key"):
            found[role].add((inner, outer))
    return found


def _connect_to_server(admin_conninfo: str, **login_as: str) -> Connection:
    """Connect to the named database, or to `postgres` if it does not exist."""
    address = conninfo.make_conninfo(admin_conninfo, **login_as)
    try:
        return _connect(address)
    except psycopg.OperationalError as failed:
        try:
            return _connect(conninfo.make_conninfo(address, dbname="postgres"))
        except psycopg.OperationalError:
            raise failed from None


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
    return psycopg.connect(address, autocommit=autocommit, fallback_application_name=APPLICATION_NAME, **LIVENESS)


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


def _prepare_as_administrator(
    admin_conninfo: str,
    passwords: Mapping[str, str],
    existing: ExistingSecrets,
    report: Callable[[str], None],
    lock_seconds: float,
) -> None:
    """Create the database if it does not exist; create roles and schema and revoke default rights in one transaction.

    Raises:
        DatabaseRefused: the administrator lacks a right.
    """
    try:
        with _administrator(admin_conninfo) as administrator:
            acquire_lock(administrator, "pg_advisory_xact_lock", _LOCK, report, lock_seconds)
            # Without this check, PostgreSQL would only warn that the rights of PUBLIC cannot be revoked.
            owned = administrator.execute(
                "select pg_has_role(current_user, datdba, 'usage') from pg_database where datname = current_database()"
            )
            if owned.fetchone() != (True,):
                raise DatabaseRefused("the administrator does not own the database", _ADMINISTRATOR_HINT)
            _create_roles(administrator, passwords, existing)
            _create_schema(administrator)
            _revoke_from_public(administrator, administrator.info.dbname)
    except errors.InsufficientPrivilege as denied:
        raise DatabaseRefused(
            f"the administrator lacks a right: {denied.diag.message_primary}", _ADMINISTRATOR_HINT
        ) from None


def _create_roles(administrator: Connection, passwords: Mapping[str, str], existing: ExistingSecrets) -> None:
    names = [OWNER, *(login(role) for role in (MIGRATOR, *PROCESSES))]
    rows = administrator.execute("select rolname from pg_roles where rolname = any(%s)", [names]).fetchall()
    found = {name for (name,) in rows}
    if OWNER not in found:
        administrator.execute(sql.SQL("create role {} nologin").format(sql.Identifier(OWNER)))
    for role in (MIGRATOR, *PROCESSES):
        verb = sql.SQL("alter role {} " if login(role) in found else "create role {} ")
        # Set each time, so that an attribute that an administrator added manually does not remain.
        statement = verb.format(sql.Identifier(login(role))) + sql.SQL("login noinherit nocreatedb nocreaterole")
        # No running process logs in as the migrator, so its password needs no overlap.
        is_replaced = existing is ExistingSecrets.REPLACE or (existing is ExistingSecrets.ADD and role == MIGRATOR)
        if is_replaced or login(role) not in found:
            # Hashed here, so that the password is never part of a statement that the server may log.
            scrambled = administrator.pgconn.encrypt_password(
                passwords[role].encode(), login(role).encode(), b"scram-sha-256"
            ).decode()
            statement += sql.SQL(" password {}").format(sql.Literal(scrambled))
        administrator.execute(statement)
        if role in PROCESSES:
            _set_session_settings(administrator, login(role))
    if login(MIGRATOR) not in found:
        # With NOINHERIT, this membership permits only SET ROLE, on PostgreSQL 15 as well.
        administrator.execute(sql.SQL("grant {} to {}").format(sql.Identifier(OWNER), sql.Identifier(login(MIGRATOR))))


def _set_session_settings(administrator: Connection, name: str) -> None:
    kept = administrator.execute(
        "select setconfig from pg_db_role_setting where setdatabase = 0 and setrole = %s::regrole", [name]
    ).fetchone()
    for setting, value in SESSION_SETTINGS.items():
        if kept is None or f"{setting}={value}" not in kept[0]:
            administrator.execute(
                sql.SQL("alter role {} set {} = {}").format(
                    sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)
                )
            )


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


def _store_keys(connection: Connection, context_keys: Mapping[str, bytes], existing: ExistingSecrets) -> None:
    """Store the context key of each process; `connection` is the migrator's, with the role of the owner."""
    for role in PROCESSES:
        inner, outer = pads(context_keys[role])
        connection.execute(
            "insert into okcm.context_key (role, inner_pad, outer_pad) values (%s, %s, %s) on conflict do nothing",
            [login(role), inner, outer],
        )
        if existing is ExistingSecrets.REPLACE:
            connection.execute("delete from okcm.context_key where role = %s and inner_pad <> %s", [login(role), inner])
