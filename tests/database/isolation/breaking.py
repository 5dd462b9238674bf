"""Hostile SQL in the session of each process, and the list of what succeeded.

The isolation test requires `breaches_of` to be empty; the mutation suite requires it not to be. It yields one breach at
a time, so that the first one identifies a mutant.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from functools import partial

import psycopg
from psycopg import errors

from database.postgres.access import CURRENT_TRANSACTION, PROCESSES, sign
from tests.database.fixtures import Field
from tests.database.isolation.denied import FOREIGN_REFERENCES, NEVER, NEVER_ANY_PROCESS, PLATFORM_QUESTIONS
from tests.database.isolation.grants import GRANTS

ATTACKER, VICTIM = "acme", "beta"
PARTITIONS = tuple(f"audit_event_{number:02d}" for number in range(16))
# Rejected by grant, row-level security, trigger or foreign key.
_REFUSED = (errors.InsufficientPrivilege, errors.ForeignKeyViolation)
# A constraint or trigger that rejects a row has seen it: row-level security did not hide it.
_SEEN = (errors.UniqueViolation, errors.CheckViolation, errors.NotNullViolation, errors.RaiseException)

_UPDATES = {("operator", "outbox"): "expired_at = null", ("dashboard", "root_key"): "viewed_at = now()"}
"""Values for tables whose updates and queries have different policies; other tables get the value of a column again."""

Signature = Callable[[str], str]
"""Returns the value of `app.ctx` for a transaction."""
Context = tuple[str, Signature]
"""The values of `app.tenant_id` and `app.ctx`."""
_UNSIGNED: Signature = lambda _: ""  # noqa: E731 - a constant
_FORGED: Signature = lambda _: "0" * 64  # noqa: E731 - a constant


def breaches_of(field: Field, about: str = "") -> Iterator[str]:
    """Yield each access beyond tenant and rights, as `role: statement`; requires both tenants in every table.

    Args:
        field: the attacked database.
        about: a name in the schema; only statements that contain it are tried. Without it, all are.
    """
    with ExitStack() as stack:
        administrator = stack.enter_context(field.administrator())
        tables = [name for name in _tables(administrator) if about in name]
        yield from _by_superuser(administrator, about)
        yield from _by_owner(administrator, tables, about)
        yield from _by_careless_function(field, administrator, tables, about)
        yield from _grants_that_differ(administrator)
        sessions = {role: stack.enter_context(field.session(role)) for role in PROCESSES}
        for role, session in sessions.items():
            yield from (f"{role}: {breach}" for breach in _own_reads(field, session, role, tables))
        rows = {table: _row_of_attacker(administrator, table) for table in tables}
        for role, session in sessions.items():
            yield from (f"{role}: {breach}" for breach in _by_role(field, session, role, rows, about))


def denied_own_writes(field: Field) -> set[tuple[str, str]]:
    """Return role and table of each write that is denied even for the attacker's own rows.

    Such a write fails for another reason than row-level security, so it proves nothing for the victim's rows.
    """
    denied = set()
    with field.administrator() as administrator:
        rows = {table: _row_of_attacker(administrator, table) for table in _tables(administrator)}
    for role in PROCESSES:
        with field.session(role) as session:
            for write in _writes(role, rows):
                own = (ATTACKER, _signed(field, role, ATTACKER))
                if not _reached(session, own, write.replace(VICTIM, ATTACKER)):
                    denied.add((role, re.findall(r"okcm\.(\w+)", write)[0]))
    return denied


def _tables(administrator: psycopg.Connection) -> list[str]:
    """Return every table with rows of tenants."""
    rows = administrator.execute(
        "select relname from pg_class c where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p')"
        " and not relispartition and exists (select from pg_attribute where attrelid = c.oid and attname = 'tenant_id')"
        " order by 1"
    )
    return [name for (name,) in rows]


def _row_of_attacker(administrator: psycopg.Connection, table: str) -> str:
    """Return a row of the attacker with the victim's tenant id, as a JSON literal."""
    found = administrator.execute(
        f'select quote_literal(to_jsonb(t) || \'{{"tenant_id": "{VICTIM}"}}\') from okcm.{table} t'
        f" where tenant_id = '{ATTACKER}' limit 1"
    ).fetchone()
    assert found, f"no row in {table}"
    return str(found[0])


def granted(role: str, right: str) -> dict[str, list[str]]:
    """Return the tables that a role has the right to, each with its columns, or none for the whole table."""
    entries = re.findall(r"(\w+)(?:\(([^)]*)\))?", GRANTS[role].get(right, ""))
    return {name: re.split(r",\s*", columns) if columns else [] for name, columns in entries}


def _grants_that_differ(administrator: psycopg.Connection) -> Iterator[str]:
    rows = administrator.execute(
        """
        with role as (select oid, rolname, substr(rolname, 6) as process from pg_roles
                      where rolname = any(select 'okcm_' || unnest(%s::text[]))),
        relation as (select * from pg_class where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p', 'v'))
        select process, right_, relname, case when whole then array[]::text[] else columns end from (
            select process, right_, relname, has_table_privilege(r.oid, c.oid, right_) as whole,
                (select array_agg(attname::text order by attnum) from pg_attribute
                 where attrelid = c.oid and attnum > 0 and not attisdropped and right_ in ('select', 'insert', 'update')
                 and has_column_privilege(r.oid, c.oid, attnum, right_)) as columns
            from role r, relation c,
                unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as right_
        ) as has where whole or columns is not null
        union all
        select process, 'execute', proname, array[]::text[] from role r, pg_proc p
        where pronamespace = 'okcm'::regnamespace and has_function_privilege(r.oid, p.oid, 'execute')
        """,
        [list(PROCESSES)],
    ).fetchall()
    actual = {(role, right, name): frozenset(columns) for role, right, name, columns in rows}
    expected = {
        (role, right, name): frozenset(columns)
        for role, rights in GRANTS.items()
        for right in rights
        for name, columns in granted(role, right).items()
    }
    for grant in sorted(actual.keys() | expected.keys()):
        if actual.get(grant) != expected.get(grant):
            yield f"{' '.join(grant)}: {actual.get(grant)} is granted, {expected.get(grant)} is expected"


def _about(statements: Iterable[str], about: str) -> list[str]:
    return [statement for statement in statements if not about or f"okcm.{about}" in statement]


def _own_reads(field: Field, session: psycopg.Connection, role: str, tables: Iterable[str]) -> Iterator[str]:
    own = (ATTACKER, _signed(field, role, ATTACKER))
    # The positive control: policies that hide every row would pass all checks below.
    for table in granted(role, "select").keys() & tables:
        if not _reached(session, own, f"select count(tenant_id) from okcm.{table}"):
            yield f"cannot read its own {table}"
        if _reached(session, own, f"select count(*) from okcm.{table} where tenant_id <> '{ATTACKER}'"):
            yield f"reads others' {table}"
    for (updating, table), values in _UPDATES.items():
        # Without a condition the policies that hide rows from queries do not apply.
        if updating == role and table in tables and _reached(session, own, f"update okcm.{table} set {values}") != 1:
            yield f"does not update exactly its own row of {table}"


def _by_role(field: Field, session: psycopg.Connection, role: str, rows: dict[str, str], about: str) -> Iterator[str]:
    own = (ATTACKER, _signed(field, role, ATTACKER))
    writes = [*_writes(role, rows), *_named(FOREIGN_REFERENCES.get(role, ()), about)]
    for name, context in _contexts(field, role).items():
        reads = (f"select count(*) from okcm.{table} where tenant_id <> '{ATTACKER}'" for table in rows)
        for statement in (*reads, *writes):
            if _reached(session, context, statement):
                yield f"{name}: {statement}"
    partitions = (f"select count(*) from okcm.{partition}" for partition in PARTITIONS)
    copies = (f"copy okcm.{table} from stdin" for table in rows)
    never = (*copies, *partitions, *NEVER.get(role, ()), *PLATFORM_QUESTIONS, *NEVER_ANY_PROCESS)
    for statement in _named(never, about):
        if _reached(session, own, statement) is not None:
            yield statement


def _named(statements: Iterable[str], about: str) -> list[str]:
    return [one.format(attacker=ATTACKER, victim=VICTIM) for one in _about(statements, about)]


def _writes(role: str, rows: dict[str, str]) -> Iterator[str]:
    """Yield the writes for which a role has grants, on the victim's rows."""
    for table, columns in granted(role, "update").items():
        if table in rows:
            values = _UPDATES.get((role, table), f"{columns[0]} = {columns[0]}")
            yield f"update okcm.{table} set {values} where tenant_id = '{VICTIM}'"
    for table in granted(role, "delete").keys() & rows:
        yield f"delete from okcm.{table} where tenant_id = '{VICTIM}'"
    for table, columns in granted(role, "insert").items():
        if table in rows:
            names = ", ".join(columns) or "*"
            into = f" ({names})" if columns else ""
            row = f"jsonb_populate_record(null::okcm.{table}, {rows[table]})"
            yield f"insert into okcm.{table}{into} select {names} from {row}"


def _contexts(field: Field, role: str) -> dict[str, Context]:
    own, theirs = _signed(field, role, ATTACKER), _signed(field, role, VICTIM)
    another = "marketplace" if role == "worker" else "worker"
    contexts = {
        "own": (ATTACKER, own),
        "no-context": ("", _UNSIGNED),
        "only-setting": (VICTIM, _UNSIGNED),
        "switched": (VICTIM, own),
        "forged": (VICTIM, _FORGED),
        "of-another-session": (VICTIM, lambda transaction: theirs(_shifted(transaction, session=1))),
        "of-an-earlier-transaction": (VICTIM, lambda transaction: theirs(_shifted(transaction, start="-0.000001"))),
        "signed-by-another": (VICTIM, _signed(field, another, VICTIM)),
        "platform-by-another": ("*", _signed(field, another, "*")),
    }
    # The operator may list tenants with its context for the platform.
    return contexts if role == "operator" else contexts | {"platform": ("*", _signed(field, role, "*"))}


_DELETES = (
    "declare own bigint := (select count(*) from okcm.managed_object where tenant_id = '{attacker}'); gone bigint;"
    " begin delete from okcm.managed_object; get diagnostics gone = row_count; return {answer}; end"
)


def _by_careless_function(
    field: Field, administrator: psycopg.Connection, tables: Iterable[str], about: str
) -> Iterator[str]:
    """Simulate a future SECURITY DEFINER function that does not restrict the tenant of its rows."""
    ages = dict(administrator.execute("select name, age from okcm.retention_rules()").fetchall())
    for table in tables:
        idle = f"begin return (select count(*) from okcm.{table}); end"
        careless = f"begin return (select count(*) from okcm.{table} where tenant_id <> '{ATTACKER}'); end"
        # Except for the audit stream and fingerprints, which it maintains, and objects, which it counts, the owner
        # needs access to a tenant's rows only during its destruction.
        reads = table.startswith(("audit_", "managed_object", "key_fingerprint"))
        made_young = ""
        if at := ages.get(table):
            # The owner deletes old rows; younger ones are hidden from it. The first day of a month can be 31 days ago.
            unit, days = ("month", 31) if table == "usage_month" else ("hour", 14)
            idle = f"begin return (select count(*) from okcm.{table} where {at} > now() - interval '{days} days'); end"
            if not table.startswith("boundary_"):
                made_young = f"update okcm.{table} set {at} = date_trunc('{unit}', now())"
        yield from _by_functions(field, administrator, table, None if reads else idle, careless, prepared=made_young)
    if about not in "managed_object":
        return
    # DELETE has separate policies from SELECT. Without a condition, because a condition would apply those of SELECT.
    idle, careless = (
        _DELETES.format(attacker=ATTACKER, answer=answer) for answer in ("gone", "greatest(gone - own, 0)")
    )
    yield from _by_functions(field, administrator, "managed_object, deleting", idle, careless)


def _by_functions(
    field: Field,
    administrator: psycopg.Connection,
    what: str,
    idle: str | None,
    careless: str,
    *,
    prepared: str = "",
) -> Iterator[str]:
    """Call both functions as the owner: `idle` without a destruction, `careless` while all tenants are destroyed."""
    with administrator.transaction(force_rollback=True):
        administrator.execute(
            f"{prepared};"
            f"create function okcm.careless() returns bigint language plpgsql security definer as $$ {careless} $$;"
            f"create function okcm.idle() returns bigint language plpgsql security definer as $$ {idle or careless} $$;"
            "alter function okcm.careless() owner to okcm_owner; alter function okcm.idle() owner to okcm_owner;"
            "set local session authorization okcm_worker"
        )
        own = (ATTACKER, _signed(field, "worker", ATTACKER))
        if idle is not None and _reached(administrator, own, "select okcm.idle()"):
            yield f"a function of the owner without a destruction: {what}"
        # While both are destroyed: then the owner has access to most rows.
        administrator.execute(
            "reset session authorization;"
            "update okcm.tenant set state = 'offboarding', destroying_at = now();"
            "set local session authorization okcm_worker"
        )
        for context in (own, (VICTIM, _UNSIGNED)):
            if _reached(administrator, context, "select okcm.careless()"):
                yield f"a careless function of the owner: {what}"


def _by_owner(administrator: psycopg.Connection, tables: Iterable[str], about: str) -> Iterator[str]:
    with administrator.transaction(force_rollback=True):
        administrator.execute("set local role okcm_owner")
        # The last one is for a session role without a context key.
        for name, context in (("no", _UNSIGNED), ("a forged", _FORGED)):
            for table in (*tables, *(one for one in PARTITIONS if about in one)):
                if _reached(administrator, (VICTIM, context), f"select count(*) from okcm.{table}"):
                    yield f"the owner with {name} context: {table}"


def _by_superuser(administrator: psycopg.Connection, about: str) -> Iterator[str]:
    """Try accidental changes of the audit stream as a superuser; the chain reveals intended ones."""
    changes = [
        "update okcm.audit_event set record = '{}'",
        "delete from okcm.audit_event",
        "delete from okcm.audit_signed_head",
        "update okcm.audit_key set public_key_pem = 'x'",
        "delete from okcm.audit_key",
        "update okcm.audit_archive set seq = seq + 1",
        "delete from okcm.audit_archive",
        *(
            f"truncate okcm.{stream}"
            for stream in ("audit_head", "audit_signed_head", "audit_archive", "audit_key", "audit_event", *PARTITIONS)
        ),
    ]
    for preparation in ("set local session_replication_role = origin", "set local session_replication_role = replica"):
        with administrator.transaction(force_rollback=True):
            administrator.execute(preparation)
            for change in _about(changes, about):
                if _reached(administrator, ("", _UNSIGNED), change) is not None:
                    yield f"superuser after {preparation}: {change}"


def _reached(session: psycopg.Connection, context: Context, statement: str) -> int | None:
    """Return the rows that a statement counted or changed, None if it was rejected; it is rolled back."""
    with session.transaction(force_rollback=True):
        [transaction] = session.execute(CURRENT_TRANSACTION.encode()).fetchone() or ("",)
        tenant_id, signature = context
        session.execute(
            "select set_config('app.tenant_id', %s, true), set_config('app.ctx', %s, true)",
            [tenant_id, signature(transaction)],
        )
        try:
            if statement.startswith("copy okcm."):
                return _copied(session, statement)
            cursor = session.execute(statement)
        except _REFUSED:
            return None
        except _SEEN:
            return 1
        row = cursor.fetchone() if cursor.description is not None else None
        return row[0] if row is not None and isinstance(row[0], int) else max(cursor.rowcount, 0)


def _copied(session: psycopg.Connection, statement: str) -> int | None:
    try:
        with session.cursor().copy(statement):
            return 1
    except errors.FeatureNotSupported:  # PostgreSQL rejects COPY FROM on a table with row-level security
        return None


def _signed(field: Field, role: str, tenant_id: str) -> Signature:
    return partial(sign, field.key(role), tenant_id)


def _shifted(transaction: str, session: int = 0, start: str = "0") -> str:
    """Return the id of another transaction: of another session, or of another time in seconds."""
    pid, _, began = transaction.partition("|")
    return f"{int(pid) + session}|{Decimal(began) + Decimal(start)}"
