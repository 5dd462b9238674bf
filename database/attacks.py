"""Attacks on row security, made for each new tenant before it opens (MTCI M1, M2).

Each is what somebody could do who can run SQL in the worker's session while it works for `attacker`; two forms, reading
and writing, for each way to pretend to be `victim`. A check holds only if the database refused while the same
statements on the attacker's own rows worked. Everything happens in one transaction that is rolled back.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import Connection, errors
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
_UPDATE = "update okcm.tenant set ready_at = ready_at where tenant_id = %(whose)s"
_INSERT = "insert into okcm.key (tenant_id, name, kind, version) values (%(whose)s, %(name)s, 'payload', 1)"
_REFER = (
    "insert into okcm.route as kept (tenant_id, l2_key, issuer_fingerprint, region)"
    " values (%(own)s, %(l2_key)s, repeat('0', 64), 'nowhere')"
    " on conflict (tenant_id) do update set l2_key = excluded.l2_key, published_at = now()"
)

# The only answers that count as a refusal: row security or a grant said no, a reference did not lead anywhere.
_REFUSALS = (errors.InsufficientPrivilege, errors.ForeignKeyViolation)


@dataclass(frozen=True, slots=True)
class _Pretence:
    """What `app.tenant_id` and `app.ctx` say while a statement runs; None leaves the attacker's own context."""

    name: str
    tenant_id: str
    context: str | None


class RowSecurityProbe:
    """Implements `interfaces.BoundaryProbe` with the pool and the role of the process that it is part of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attack(self, attacker: str, victim: str) -> Sequence[CheckResult]:
        with self._database.raw_tx(victim) as connection:
            if _touched(connection, _READ, {"whose": victim}) == 0:
                raise CanaryMissing
        with self._database.raw_tx(attacker) as connection:
            _require_controls(connection, attacker)
            results = [_result("M1", "refer-to-foreign-key", *_refer(connection, attacker, victim))]
            for pretence in self._pretences(attacker, victim):
                results += _try_to_read_and_write(connection, pretence, victim)
            connection.rollback()
        return results

    def _pretences(self, attacker: str, victim: str) -> Iterator[_Pretence]:
        now = int(time.time())
        own = self._database.sign(attacker, now + 60)
        yield _Pretence("plain", attacker, None)
        yield _Pretence("switched-setting", victim, None)
        yield _Pretence("swapped-context", victim, own.replace(attacker, victim, 1))
        yield _Pretence("forged-context", victim, f"{victim}|{now + 60}|{secrets.token_hex(32)}")
        yield _Pretence("expired-context", victim, self._database.sign(victim, now - 1))


def _require_controls(connection: Connection[TupleRow], attacker: str) -> None:
    """Do to the attacker's own rows what the attacks do to the victim's; without that a refusal proves nothing."""
    for statement in (_READ, _UPDATE, _INSERT, _REFER):
        with _undone(connection):
            try:
                worked = _touched(connection, statement, _values(attacker, own=attacker)) > 0
            except _REFUSALS:
                worked = False
        if not worked:
            raise CanaryMissing


def _try_to_read_and_write(connection: Connection[TupleRow], pretence: _Pretence, victim: str) -> Iterator[CheckResult]:
    values = _values(victim, own=victim)
    for form, statements in (("read", (_READ,)), ("write", (_UPDATE, _INSERT))):
        started = time.perf_counter()
        endings = []
        for statement in statements:
            with _undone(connection):
                _pretend(connection, pretence)
                endings.append(_ending(connection, statement, values))
        yield _result("M2", f"{pretence.name}-{form}", started, endings)


def _refer(connection: Connection[TupleRow], attacker: str, victim: str) -> tuple[float, list[str | int]]:
    started = time.perf_counter()
    with _undone(connection):
        return started, [_ending(connection, _REFER, _values(victim, own=attacker))]


def _values(whose: str, own: str) -> dict[str, str]:
    return {"whose": whose, "own": own, "l2_key": l2_key(whose), "name": f"boundary-{secrets.token_hex(8)}"}


def _pretend(connection: Connection[TupleRow], pretence: _Pretence) -> None:
    connection.execute(
        "select set_config('app.tenant_id', %s, true),"
        " set_config('app.ctx', coalesce(%s, current_setting('app.ctx')), true)",
        [pretence.tenant_id, pretence.context],
    )


def _touched(connection: Connection[TupleRow], statement: str, values: dict[str, str]) -> int:
    """Return how many rows a statement read or wrote."""
    cursor = connection.execute(statement, values)
    counted = cursor.fetchone() if cursor.description is not None else None
    return cursor.rowcount if counted is None else int(counted[0])


def _ending(connection: Connection[TupleRow], statement: str, values: dict[str, str]) -> str | int:
    """Return the SQLSTATE of a refusal, or how many rows were reached; any other error is raised."""
    try:
        return _touched(connection, statement, values)
    except _REFUSALS as refused:
        return refused.sqlstate or "refused"


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


@contextmanager
def _undone(connection: Connection[TupleRow]) -> Iterator[None]:
    """Undo what happens inside, a failed statement and a changed setting included."""
    connection.execute("savepoint attempt")
    try:
        yield
    finally:
        connection.execute("rollback to savepoint attempt")
