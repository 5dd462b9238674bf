"""Hostile SQL in the session of each process, and the list of what got through.

`breaches_of` is what the normal test requires to be empty and what the mutation suite requires to be not. It yields one
breach at a time, so that a mutant dies at the first.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import psycopg
from psycopg import errors

from database.context import sign
from database.roles import PROCESSES
from tests.database.fixtures import Field
from tests.database.forbidden import NEVER, NEVER_ANYBODY, OPERATORS_QUESTIONS, READABLE
from tests.database.hostile import ALLOWED_WRITES, ATTACKER, NEVER_ON_ANY_TABLE, PARTITIONS, TABLES, VICTIM

# Refused by grant, row security or trigger, or by a reference. Anything else is a mistake of the attack.
_REFUSED = (errors.InsufficientPrivilege, errors.ForeignKeyViolation)

Pretence = tuple[str, str]
"""What `app.tenant_id` and `app.ctx` say."""


def breaches_of(field: Field, about: str = "") -> Iterator[str]:
    """Yield what was reached beyond tenant and rights, as `who: statement`; expects both tenants in every table.

    Args:
        field: what is attacked.
        about: a name in the schema, of which something in each statement must remind; everything is tried without.
    """
    with ExitStack() as opened:
        administrator = opened.enter_context(field.administrator())
        yield from _by_superuser(administrator, about)
        yield from _by_owner(administrator, about)
        yield from _by_careless_function(field, administrator, about)
        sessions = {role: opened.enter_context(field.session(role)) for role in PROCESSES}
        for way in (_at_a_glance, _by_role):  # what most mutants die of comes first
            for role, session in sessions.items():
                yield from (f"{role}: {breach}" for breach in way(field, session, role, about))


def _of(names: Iterable[str], about: str) -> list[str]:
    return [name for name in names if about in name]


def _saying(statements: Iterable[str], about: str) -> list[str]:
    return [statement for statement in statements if not about or f"okcm.{about}" in statement]


def _at_a_glance(field: Field, session: psycopg.Connection, role: str, about: str) -> Iterator[str]:
    own = (ATTACKER, _signed(field, role, ATTACKER))
    # The positive control: a wall that lets nobody through would pass everything below.
    for table in _of(READABLE[role], about):
        if not _reached(session, own, f"select count(*) from okcm.{table}"):
            yield f"cannot read its own {table}"
        if _reached(session, own, f"select count(*) from okcm.{table} where tenant_id <> '{ATTACKER}'"):
            yield f"reads others' {table}"


def _by_role(field: Field, session: psycopg.Connection, role: str, about: str) -> Iterator[str]:
    own = (ATTACKER, _signed(field, role, ATTACKER))
    tables = _of(TABLES, about)
    for name, pretence in _pretences(field, role).items():
        for table in tables:
            read = f"select count(*) from okcm.{table} where tenant_id <> '{ATTACKER}'"
            if _reached(session, pretence, read):
                yield f"{name}: {read}"
        for write in _saying(ALLOWED_WRITES[role], about):
            statement = write.format(victim=VICTIM, attacker=ATTACKER)
            if _reached(session, pretence, statement):
                yield f"{name}: {statement}"
    never = [
        *(write.format(table=table, victim=VICTIM) for table in tables for write in NEVER_ON_ANY_TABLE),
        *(f"select count(*) from okcm.{partition}" for partition in PARTITIONS),
        *(statement.format(attacker=ATTACKER) for statement in NEVER[role]),
        *OPERATORS_QUESTIONS,
        *NEVER_ANYBODY,
    ]
    for statement in _saying(never, about):
        if _reached(session, own, statement) is not None:
            yield statement


def _pretences(field: Field, role: str) -> dict[str, Pretence]:
    own = _signed(field, role, ATTACKER)
    another = "marketplace" if role == "worker" else "worker"
    pretences = {
        "own": (ATTACKER, own),
        "no-context": ("", ""),
        "only-setting": (VICTIM, ""),
        "switched": (VICTIM, own),
        "swapped": (VICTIM, own.replace(ATTACKER, VICTIM)),
        "forged": (VICTIM, f"{VICTIM}|{int(time.time()) + 60}|{'0' * 64}"),
        "expired": (VICTIM, sign(field.key(role), VICTIM, int(time.time()) - 1)),
        "signed-by-another": (VICTIM, _signed(field, another, VICTIM)),
        "platform-by-another": ("*", _signed(field, another, "*")),
    }
    # The operator may list tenants with a context of its own for the platform.
    return pretences if role == "operator" else pretences | {"platform": ("*", _signed(field, role, "*"))}


_DELETES = (
    "declare own bigint := (select count(*) from okcm.managed_object where tenant_id = '{attacker}'); gone bigint;"
    " begin delete from okcm.managed_object; get diagnostics gone = row_count; return {answer}; end"
)


_EVIDENCE = {"boundary_result": "recorded_at", "boundary_clause": "examined_at"}
"""What the owner takes away when it is old, by the column that says how old it is; of what is newer it sees nothing."""


def _by_careless_function(field: Field, administrator: psycopg.Connection, about: str) -> Iterator[str]:
    """Stand for a future SECURITY DEFINER function of ours that forgot to ask whose rows it returns."""
    for table in _of(TABLES, about):
        idle = f"begin return (select count(*) from okcm.{table}); end"
        careless = f"begin return (select count(*) from okcm.{table} where tenant_id <> '{ATTACKER}'); end"
        # But for the audit stream and fingerprints, which it keeps, and for objects, which it counts, the owner has to
        # do with a tenant only while it is destroyed.
        looks = table.startswith(("audit_", "managed_object", "key_fingerprint"))
        if at := _EVIDENCE.get(table):
            idle = f"begin return (select count(*) from okcm.{table} where {at} > now() - interval '14 days'); end"
        yield from _by_functions(field, administrator, table, None if looks else idle, careless)
    if about not in "managed_object":
        return
    # Deleting has policies of its own where looking is allowed; without a condition, for then looking is asked as well.
    idle, careless = (
        _DELETES.format(attacker=ATTACKER, answer=answer) for answer in ("gone", "greatest(gone - own, 0)")
    )
    yield from _by_functions(field, administrator, "managed_object, deleting", idle, careless)


def _by_functions(
    field: Field, administrator: psycopg.Connection, what: str, idle: str | None, careless: str
) -> Iterator[str]:
    """Call both as the owner: one while nothing is destroyed, the other while everybody is."""
    with administrator.transaction(force_rollback=True):
        administrator.execute(
            f"create function okcm.careless() returns bigint language plpgsql security definer as $$ {careless} $$;"
            f"create function okcm.idle() returns bigint language plpgsql security definer as $$ {idle or careless} $$;"
            "alter function okcm.careless() owner to okcm_owner; alter function okcm.idle() owner to okcm_owner;"
            "set local session authorization okcm_worker"
        )
        own = (ATTACKER, _signed(field, "worker", ATTACKER))
        if idle is not None and _reached(administrator, own, "select okcm.idle()"):
            yield f"a function of the owner's while nothing is destroyed: {what}"
        # While both are destroyed: the moment at which the owner reaches most.
        administrator.execute(
            "reset session authorization;"
            "update okcm.tenant set state = 'leaving', destroying_at = now();"
            "set local session authorization okcm_worker"
        )
        for pretence in (own, (VICTIM, "")):
            if _reached(administrator, pretence, "select okcm.careless()"):
                yield f"a careless function of the owner: {what}"


def _by_owner(administrator: psycopg.Connection, about: str) -> Iterator[str]:
    with administrator.transaction(force_rollback=True):
        administrator.execute("set local role okcm_owner")
        # The last is for a session that no context key was ever made for.
        for context in ("", f"{VICTIM}|{int(time.time()) + 60}|{'0' * 64}"):
            for table in _of((*TABLES, *PARTITIONS), about):
                if _reached(administrator, (VICTIM, context), f"select count(*) from okcm.{table}"):
                    yield f"the owner with the context {context!r}: {table}"


def _by_superuser(administrator: psycopg.Connection, about: str) -> Iterator[str]:
    """What even a superuser must not do to the audit stream by accident; on purpose he can, and the chain shows it."""
    changes = [
        "update okcm.audit_event set record = '{}'",
        "delete from okcm.audit_event",
        "delete from okcm.audit_signed_head",
        "update okcm.audit_key set public_key_pem = 'x'",
        "delete from okcm.audit_key",
        *(
            f"truncate okcm.{stream}"
            for stream in ("audit_head", "audit_signed_head", "audit_key", "audit_event", *PARTITIONS)
        ),
    ]
    for preparation in ("set local session_replication_role = origin", "set local session_replication_role = replica"):
        with administrator.transaction(force_rollback=True):
            administrator.execute(preparation)
            for change in _saying(changes, about):
                if _reached(administrator, ("", ""), change) is not None:
                    yield f"superuser after {preparation}: {change}"


def _reached(session: psycopg.Connection, pretence: Pretence, statement: str) -> int | None:
    """Return how many rows a statement counted or touched, None when it was refused; it is undone either way."""
    with session.transaction(force_rollback=True):
        session.execute("select set_config('app.tenant_id', %s, true), set_config('app.ctx', %s, true)", list(pretence))
        try:
            if statement.startswith("copy okcm."):
                return _copied(session, statement)
            cursor = session.execute(statement)
        except _REFUSED:
            return None
        row = cursor.fetchone() if cursor.description is not None else None
        return row[0] if row is not None and isinstance(row[0], int) else max(cursor.rowcount, 0)


def _copied(session: psycopg.Connection, statement: str) -> int | None:
    try:
        with session.cursor().copy(statement):
            return 1
    except errors.FeatureNotSupported:  # what PostgreSQL says to COPY FROM where there is row security
        return None


def _signed(field: Field, role: str, tenant_id: str) -> str:
    return sign(field.key(role), tenant_id, int(time.time()) + 60)
