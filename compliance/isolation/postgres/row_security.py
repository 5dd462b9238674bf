"""Attacks on row security, made for each new tenant before it opens (MTCI M1, M2).

Each is what somebody could do who can run SQL in the worker's session while it works for the attacker; two forms,
reading and writing, for each way to pretend to be the victim. A check holds only if the database refused while the same
statements on the attacker's own rows worked, which in the other direction shows that the victim has rows to steal.
Both directions happen in one transaction that is rolled back, and in one message: a block of PL/pgSQL makes the
attempts one after another with the session's own rights, each undone before the next, because round trips would cost
every new tenant more than the attacks themselves.

What can differ from table to table is whether its two policies stand, so the pretences that meet one policy alone
(plain: the tenant policy; swapped context: the signature policy) try every table. The others try what all tables share,
the check of the signature, on one.
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from psycopg import ClientCursor

from core.errors.compliance import CanaryMissing
from core.isolation import CheckResult
from core.names import l2_key
from database.connection.database import Database

_TABLES = (
    *("tenant", "marketplace_event", "operation_step", "key", "certificate_authority", "route", "boundary_result"),
    *("boundary_clause", "certificate_revocation_list", "outbox", "audit_event", "audit_head", "audit_signed_head"),
    *("service", "service_request", "service_certificate", "service_key", "managed_object"),
    *("usage_minute", "usage_day", "usage_batch", "dashboard_session"),
    *("root_key", "root_key_request", "root_key_change", "tenant_policy", "rotation", "destruction"),
    *("approval", "approval_vote", "shred_certificate", "agent", "protection_use", "backfill", "report"),
    *("join_token", "enrolment", "discovery", "protection", "protected_field", "key_probe"),
)

# Each counts the rows it reached. $1 is whose they are, $2 in whose name a row is written, $3 a key, $4 a fresh name.
_COUNTS = (f"(select count(*) from okcm.{table} where tenant_id = $1)" for table in _TABLES)  # noqa: S608 - constants
_READ = f"select {' + '.join(_COUNTS)}"
_READ_ONE = "select count(*) from okcm.tenant where tenant_id = $1"
_UPDATE = (
    "with hit as (update okcm.tenant set ready_at = ready_at where tenant_id = $1 returning 1) select count(*) from hit"
)
_INSERT = (
    "with hit as (insert into okcm.key (tenant_id, name, kind, version) values ($1, $4, 'payload', 1) returning 1)"
    " select count(*) from hit"
)
_REFER = (
    "with hit as (insert into okcm.route as kept (tenant_id, l2_key, issuer_fingerprint, region)"
    " values ($2, $3, repeat('0', 64), 'nowhere')"
    " on conflict (tenant_id) do update set l2_key = excluded.l2_key, published_at = now() returning 1)"
    " select count(*) from hit"
)
_DESCEND = (
    "with made as (insert into okcm.service (tenant_id, service, kind) values ($2, $4, 'microservice')),"
    " hit as (insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped)"
    " values ($2, $4, 1, $3, 'platform', 'nowhere', decode('00', 'hex')) returning 1) select count(*) from hit"
)

# The only answers that count as a refusal: row security or a grant said no, a reference did not lead anywhere. Any
# other error ends the block and is raised. `reached` outlives the undoing, because variables are not rolled back.
_BLOCK = """
do $attack$
declare
    attempt record;
    reached bigint;
    ending text;
    began timestamptz;
    endings text[] := '{}';
begin
    for attempt in select * from jsonb_to_recordset(%(attempts)s::jsonb)
        as a(pretended text, context text, statement text, whose text, own text, l2_key text, name text)
    loop
        began := clock_timestamp();
        begin
            perform set_config('app.tenant_id', attempt.pretended, true), set_config('app.ctx', attempt.context, true);
            execute attempt.statement into reached
                using attempt.whose, attempt.own, attempt.l2_key, attempt.name;
            raise exception using errcode = 'UNDO1';
        exception
            when insufficient_privilege or foreign_key_violation then ending := sqlstate;
            when sqlstate 'UNDO1' then ending := reached || ' rows';
        end;
        endings := endings || (ending || '/' || extract(epoch from clock_timestamp() - began));
    end loop;
    perform set_config('app.endings', array_to_string(endings, ','), true);
end
$attack$;
select current_setting('app.endings')
"""
_NO_ROWS = "0 rows"


@dataclass(frozen=True, slots=True)
class _Pretence:
    """What `app.tenant_id` and `app.ctx` say while a statement runs, and how it tries to read."""

    name: str
    tenant_id: str
    context: str
    read: str = _READ_ONE


@dataclass(frozen=True, slots=True)
class _Attempt:
    pretended: str
    context: str
    statement: str
    whose: str
    own: str
    l2_key: str
    name: str


@dataclass(frozen=True, slots=True)
class _Ending:
    """The SQLSTATE of a refusal, or how many rows were reached."""

    what: str
    seconds: float

    @property
    def reached(self) -> bool:
        return self.what.endswith(" rows") and self.what != _NO_ROWS


@dataclass(frozen=True, slots=True)
class _Plan:
    """The attacks in one direction, in the order in which they are made."""

    controls: Sequence[_Attempt]
    references: Sequence[_Attempt]
    pretences: Sequence[_Pretence]
    reads_and_writes: Sequence[_Attempt]

    def attempts(self) -> Sequence[_Attempt]:
        return (*self.controls, *self.references, *self.reads_and_writes)


class RowSecuritySuite:
    """Attacks on row security, run as a process role without rights over other tenants (MTCI M2)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attack_each_other(self, one: str, other: str) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Try to reach each one's rows from the other's transaction; return the results by `one` and by `other`.

        Plain reads and writes by the other's id, a switched setting, a context signed for another tenant, a forged
        and an expired one.

        Raises: DatabaseUnavailable, and CanaryMissing when one of them has no rows to steal.
        """
        forth = self._plan(one, other, _READ, (_REFER, _DESCEND))
        # Whether a table's policies and references stand does not depend on who asks: one direction tries them all.
        back = self._plan(other, one, _READ_ONE, (_REFER,))
        endings = iter(self._make(one, [*forth.attempts(), *back.attempts()]))
        return _judged(forth, endings), _judged(back, endings)

    def _make(self, tenant_id: str, attempts: Sequence[_Attempt]) -> Sequence[_Ending]:
        with self._database.raw_tx(tenant_id) as connection:
            cursor = ClientCursor(connection)
            cursor.execute(_BLOCK.encode(), {"attempts": json.dumps([asdict(attempt) for attempt in attempts])})
            cursor.nextset()
            answer = cursor.fetchone()
            connection.rollback()
        parts = [ending.split("/") for ending in str(answer[0] if answer else "").split(",")]
        return [_Ending(what, float(seconds)) for what, seconds in parts]

    def _plan(self, attacker: str, victim: str, read: str, references: Sequence[str]) -> _Plan:
        """Return the attacks by `attacker`, of which those that meet one policy alone read by `read`."""
        now = int(self._database.now().timestamp())
        own = self._database.sign(attacker, now + 60)
        forged = f"{victim}|{now + 60}|{secrets.token_hex(32)}"
        plain = _Pretence("plain", attacker, own, read)
        pretences = (
            plain,
            _Pretence("switched-setting", victim, own),
            _Pretence("swapped-context", victim, own.replace(attacker, victim, 1), read),
            _Pretence("forged-context", victim, forged),
            _Pretence("expired-context", victim, self._database.sign(victim, now - 1)),
        )
        return _Plan(
            controls=[
                _attempt(plain, statement, attacker, own=attacker)
                for statement in (*dict.fromkeys((read, _READ_ONE)), _UPDATE, _INSERT, *references)
            ],
            references=[_attempt(plain, reference, victim, own=attacker) for reference in references],
            pretences=pretences,
            reads_and_writes=[
                _attempt(pretence, statement, victim, own=victim)
                for pretence in pretences
                for statement in (pretence.read, _UPDATE, _INSERT)
            ],
        )


def _attempt(pretence: _Pretence, statement: str, whose: str, own: str) -> _Attempt:
    name = f"boundary-{secrets.token_hex(8)}"
    return _Attempt(pretence.tenant_id, pretence.context, statement, whose, own, l2_key(whose), name)


def _judged(plan: _Plan, endings: Iterator[_Ending]) -> Sequence[CheckResult]:
    # What cannot be done to one's own rows proves nothing when it is refused on another's.
    shown = [next(endings) for _ in plan.controls]
    if not all(ending.reached for ending in shown):
        raise CanaryMissing
    results = [_result("M1", "refer-to-foreign-key", [next(endings) for _ in plan.references])]
    for pretence in plan.pretences:
        results.append(_result("M2", f"{pretence.name}-read", [next(endings)]))
        results.append(_result("M2", f"{pretence.name}-write", [next(endings), next(endings)]))
    return results


def _result(clause: str, name: str, endings: Sequence[_Ending]) -> CheckResult:
    return CheckResult(
        clause=clause,
        name=f"row-security-{name}",
        outcome="breached" if any(ending.reached for ending in endings) else "held",
        seconds=sum(ending.seconds for ending in endings),
        evidence=f"attack: {', '.join(ending.what for ending in endings)}; the same on own rows worked",
    )
