"""Isolation checks of the key lineage: all stored keys of a tenant belong to its own L2 (MTCI A2, E2, M1).

The checks read the existing rows and attempt to write rows under another tenant's key. Foreign keys must reject them,
so the checks also read these constraints from the catalog where the worker may not write. All checks run in one
transaction, which undoes each attempt before the next.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import ClientCursor, Connection
from psycopg.rows import TupleRow

from core.errors.compliance import PositiveControlFailed
from core.isolation import CheckResult
from core.names import l2_key
from database.connection.database import Database

_SERVICE = "boundary-descent"

# During a rotation the key server may be one version ahead, and new wraps may use that version.
_WRAPS = """
    select count(s.service), count(*) filter (where s.l2_key <> k.name),
           count(*) filter (where s.l2_version < k.oldest or s.l2_version > k.version and not coalesce(
               (select r.state <> 'done' from okcm.rotation r order by r.tenant_id, r.number desc limit 1), false))
    from okcm.key k left join okcm.service_key s on s.tenant_id = k.tenant_id and s.state <> 'destroyed'
    where k.name = %s
"""
# The first and last entry of the index by tenant, L2 and object: all others are between them, and the cost does not
# depend on the number of objects.
_OBJECTS = """
    select l2_key from (
        (select tenant_id, l2_key from okcm.managed_object order by tenant_id, l2_key, object_id limit 1) union all
        (select tenant_id, l2_key from okcm.managed_object
         order by tenant_id desc, l2_key desc, object_id desc limit 1)) as ends
"""
_PROBES = "select l2_key from okcm.key_probe"
_CONSTRAINTS = """
    select pg_get_constraintdef(k.oid) from pg_constraint k where contype in ('p', 'f') and convalidated
    and conrelid in ('okcm.managed_object'::regclass, 'okcm.service_key'::regclass, 'okcm.key_probe'::regclass)
    and not exists (select from pg_trigger t where t.tgconstraint = k.oid and t.tgenabled = 'D')
"""
_INDEXED = {
    "PRIMARY KEY (tenant_id, l2_key, object_id)",
    (
        "FOREIGN KEY (tenant_id, l2_key, service, key_version)"
        " REFERENCES okcm.service_key(tenant_id, l2_key, service, version)"
    ),
    "FOREIGN KEY (tenant_id, l2_key) REFERENCES okcm.key(tenant_id, name)",
}

_PREPARE = "insert into okcm.service (tenant_id, service, kind) values (%(tenant)s, %(service)s, 'microservice')"
_ATTACKS = (
    (
        "insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped)"
        " values (%(tenant)s, %(service)s, 1, %(l2_key)s, 'platform', 'nowhere', decode('00', 'hex'))"
    ),
    (
        "insert into okcm.key_probe (tenant_id, l2_key, version, ciphertext, tried)"
        " values (%(tenant)s, %(l2_key)s, 1, 'vault:v1:nothing', '')"
        " on conflict (tenant_id) do update set l2_key = excluded.l2_key"
    ),
)
# PL/pgSQL catches the rejection: an error of the statement would be in the server's log, where a rejected statement
# means an attack.
_ATTEMPT = """
do $attempt$
declare
    ending text := '';
begin
    begin
        %(prepare)s;
        %(attack)s;
        raise exception using errcode = 'UNDO1';
    exception
        when foreign_key_violation then ending := sqlstate;
        when sqlstate 'UNDO1' then null;
    end;
    perform set_config('app.ending', ending, true);
end
$attempt$;
select current_setting('app.ending')
"""


@dataclass(frozen=True, slots=True)
class KeyLineageSuite:
    """Isolation checks of the key lineage of a tenant (MTCI A2, E2, M1)."""

    database: Database

    def attack(self, tenant_id: str, foreign_l2: str) -> Sequence[CheckResult]:
        """Check all rows of the tenant, and attempt to write rows under `foreign_l2`."""
        own = l2_key(tenant_id)
        with self.database.raw_tx(tenant_id) as connection:
            return (
                _timed("A2", "rows-under-another-key", lambda: _written(connection, tenant_id, own, foreign_l2)),
                _timed("A2", "rows-descend-from-own-key", lambda: _descend(connection, own)),
                _timed("E2", "wraps-name-own-key-and-version", lambda: _wraps(connection, own)),
                _timed("M1", "objects-indexed-by-own-key", lambda: _indexed(connection, own)),
            )


def _timed(clause: str, name: str, run: Callable[[], tuple[bool, str]]) -> CheckResult:
    began = time.perf_counter()
    held, evidence = run()
    return CheckResult(
        clause=clause,
        name=name,
        outcome="held" if held else "breached",
        seconds=time.perf_counter() - began,
        evidence=evidence,
    )


def _written(connection: Connection[TupleRow], tenant_id: str, own: str, foreign: str) -> tuple[bool, str]:
    under = {key: [_ending(connection, attack, tenant_id, key) for attack in _ATTACKS] for key in (own, foreign)}
    if any(under[own]):
        raise PositiveControlFailed("rows under the tenant's own key are rejected")
    outcomes = ", ".join(ending or "written" for ending in under[foreign])
    return all(under[foreign]), f"attack: {outcomes}; the same rows under the tenant's own key are accepted"


def _ending(connection: Connection[TupleRow], attack: str, tenant_id: str, key: str) -> str:
    """Return the SQLSTATE that rejected the row, empty if it was accepted; the attempt is undone in both cases."""
    cursor, values = ClientCursor(connection), {"tenant": tenant_id, "l2_key": key, "service": _SERVICE}
    cursor.execute((_ATTEMPT % {"prepare": _PREPARE, "attack": attack}).encode(), values)
    cursor.nextset()
    row = cursor.fetchone()
    return "" if row is None else str(row[0])


def _descend(connection: Connection[TupleRow], own: str) -> tuple[bool, str]:
    wraps, foreign, _ = _one(connection, _WRAPS, [own])
    probes = [key for (key,) in connection.execute(_PROBES)]
    objects = [key for (key,) in connection.execute(_OBJECTS)]
    held = not foreign and all(key == own for key in (*probes, *objects))
    seen = f"{wraps} service keys, {'objects' if objects else 'no object'}, {len(probes)} probe"
    return held, f"{seen}: {'all' if held else 'not all'} belong to the tenant's own key"


def _wraps(connection: Connection[TupleRow], own: str) -> tuple[bool, str]:
    wraps, foreign, outside = _one(connection, _WRAPS, [own])
    held = not foreign and not outside
    return held, f"of {wraps} wraps {foreign} name another key and {outside} a version that cannot decrypt"


def _indexed(connection: Connection[TupleRow], own: str) -> tuple[bool, str]:
    present = {definition for (definition,) in connection.execute(_CONSTRAINTS)}
    missing = len(_INDEXED - present)
    objects = [key for (key,) in connection.execute(_OBJECTS)]
    foreign = sum(key != own for key in objects)
    where = f"the first and last object {'are not' if foreign else 'are'} under the tenant's own key"
    constraints = f"{len(_INDEXED) - missing} of {len(_INDEXED)} constraints by tenant, key and object are in force"
    return not missing and not foreign, f"{constraints}; {where}"


def _one(connection: Connection[TupleRow], query: str, values: Sequence[str]) -> tuple[int, int, int]:
    row = connection.execute(query.encode(), values).fetchone()
    return (0, 0, 0) if row is None else (int(row[0]), int(row[1]), int(row[2]))
