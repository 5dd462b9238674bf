"""Attacks on row security, made for each new tenant before it opens (MTCI M1, M2).

Each is what somebody could do who can run SQL in the worker's session while it works for `attacker`; two forms, reading
and writing, for each way to pretend to be `victim`. A check holds only if the database refused while the same
statements on the attacker's own rows worked. Everything happens in one transaction that is rolled back.

What can differ from table to table is whether its two policies stand, so the pretences that meet one policy alone
(plain: the tenant policy; swapped context: the signature policy) try every table. The others try what all tables share,
the check of the signature, on one.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg import ClientCursor, errors
from psycopg.rows import TupleRow

from database.connection import Database
from tenancy.boundaries import CheckResult
from tenancy.errors import CanaryMissing
from tenancy.ids import l2_key

_TABLES = (
    *("tenant", "marketplace_event", "operation_step", "key", "certificate_authority", "route", "boundary_result"),
    *("outbox", "audit_event", "audit_head", "audit_signed_head"),
)
_COUNTS = (f"(select count(*) from okcm.{table} where tenant_id = %(whose)s)" for table in _TABLES)  # noqa: S608 - constants
_READ = f"select {' + '.join(_COUNTS)}"
_READ_ONE = "select count(*) from okcm.tenant where tenant_id = %(whose)s"
_UPDATE = "update okcm.tenant set ready_at = ready_at where tenant_id = %(whose)s"
_INSERT = "insert into okcm.key (tenant_id, name, kind, version) values (%(whose)s, %(name)s, 'payload', 1)"
_REFER = (
    "insert into okcm.route as kept (tenant_id, l2_key, issuer_fingerprint, region)"
    " values (%(own)s, %(l2_key)s, repeat('0', 64), 'nowhere')"
    " on conflict (tenant_id) do update set l2_key = excluded.l2_key, published_at = now()"
)

# One message for an attempt: whatever the one before left, a failed statement included, is undone first.
_ATTEMPT = (
    "rollback to savepoint attempt;"
    " select set_config('app.tenant_id', %(pretended)s, true), set_config('app.ctx', %(context)s, true);"
)

# The only answers that count as a refusal: row security or a grant said no, a reference did not lead anywhere.
_REFUSALS = (errors.InsufficientPrivilege, errors.ForeignKeyViolation)


@dataclass(frozen=True, slots=True)
class _Pretence:
    """What `app.tenant_id` and `app.ctx` say while a statement runs, and how it tries to read."""

    name: str
    tenant_id: str
    context: str
    read: str = _READ_ONE


class RowSecurityProbe:
    """Implements `interfaces.BoundaryProbe` with the pool and the role of the process that it is part of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attack(self, attacker: str, victim: str) -> Sequence[CheckResult]:
        with self._database.raw_tx(victim) as connection:
            reached = connection.execute(_READ, {"whose": victim}).fetchone()
            if reached is None or reached[0] == 0:
                raise CanaryMissing
        plain, *others = self._pretences(attacker, victim)
        with self._database.raw_tx(attacker) as connection:
            connection.execute("savepoint attempt")
            cursor = ClientCursor(connection)
            _require_controls(cursor, plain, attacker)
            results = [_refer(cursor, plain, attacker, victim)]
            for pretence in (plain, *others):
                results += _try_to_read_and_write(cursor, pretence, victim)
            connection.rollback()
        return results

    def _pretences(self, attacker: str, victim: str) -> tuple[_Pretence, ...]:
        now = int(time.time())
        own = self._database.sign(attacker, now + 60)
        forged = f"{victim}|{now + 60}|{secrets.token_hex(32)}"
        return (
            _Pretence("plain", attacker, own, _READ),
            _Pretence("switched-setting", victim, own),
            _Pretence("swapped-context", victim, own.replace(attacker, victim, 1), _READ),
            _Pretence("forged-context", victim, forged),
            _Pretence("expired-context", victim, self._database.sign(victim, now - 1)),
        )


def _require_controls(cursor: ClientCursor[TupleRow], plain: _Pretence, attacker: str) -> None:
    """Do to the attacker's own rows what the attacks do to the victim's; without that a refusal proves nothing."""
    for statement in (_READ, _READ_ONE, _UPDATE, _INSERT, _REFER):
        ending = _ending(cursor, plain, statement, _values(attacker, own=attacker))
        if isinstance(ending, str) or ending == 0:
            raise CanaryMissing


def _refer(cursor: ClientCursor[TupleRow], plain: _Pretence, attacker: str, victim: str) -> CheckResult:
    started = time.perf_counter()
    ending = _ending(cursor, plain, _REFER, _values(victim, own=attacker))
    return _result("M1", "refer-to-foreign-key", started, [ending])


def _try_to_read_and_write(cursor: ClientCursor[TupleRow], pretence: _Pretence, victim: str) -> Iterator[CheckResult]:
    values = _values(victim, own=victim)
    for form, statements in (("read", (pretence.read,)), ("write", (_UPDATE, _INSERT))):
        started = time.perf_counter()
        endings = [_ending(cursor, pretence, statement, values) for statement in statements]
        yield _result("M2", f"{pretence.name}-{form}", started, endings)


def _values(whose: str, own: str) -> dict[str, str]:
    return {"whose": whose, "own": own, "l2_key": l2_key(whose), "name": f"boundary-{secrets.token_hex(8)}"}


def _ending(cursor: ClientCursor[TupleRow], pretence: _Pretence, statement: str, values: dict[str, str]) -> str | int:
    """Return the SQLSTATE of a refusal, or how many rows were reached; any other error is raised."""
    pretended = {"pretended": pretence.tenant_id, "context": pretence.context}
    try:
        cursor.execute((_ATTEMPT + statement).encode(), values | pretended)
    except _REFUSALS as refused:
        return refused.sqlstate or "refused"
    while cursor.nextset():
        pass
    counted = cursor.fetchone() if cursor.description is not None else None
    return cursor.rowcount if counted is None else int(counted[0])


def _result(clause: str, name: str, started: float, endings: list[str | int]) -> CheckResult:
    held = all(isinstance(ending, str) or ending == 0 for ending in endings)
    shown = ", ".join(ending if isinstance(ending, str) else f"{ending} rows" for ending in endings)
    return CheckResult(
        clause=clause,
        name=f"row-security-{name}",
        outcome="held" if held else "breached",
        seconds=time.perf_counter() - started,
        evidence=f"attack: {shown}; the same on own rows worked",
    )
