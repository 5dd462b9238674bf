"""Isolation checks of row-level security, run for each new tenant before its activation (MTCI M1, M2).

The attacker can run SQL in the worker's session while the worker works for the attacker's tenant. Each pretence, a way
to pose as the victim, has a read and a write attempt. A check holds only if the database rejects it while the same
statements on the attacker's own rows succeed. In the other direction this also shows that the victim has rows.

Both directions run in one transaction that is rolled back, and in one message: a PL/pgSQL block makes the attempts with
the rights of the session and undoes each before the next, because round trips would cost more than the attacks.

The two policies can differ between tables. Pretences that test one policy (plain: the tenant policy; switched setting:
the signature policy) therefore use every table; the others test the shared signature check on one table.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from types import MappingProxyType

from psycopg import ClientCursor, Connection
from psycopg.rows import TupleRow

from core.errors.compliance import CanaryMissing
from core.isolation import CheckResult
from core.names import l2_key
from database.connection.database import Database
from database.postgres.access import CURRENT_TRANSACTION

_TABLES = (
    *("tenant", "marketplace_event", "operation_step", "key", "certificate_authority", "route", "boundary_result"),
    *("boundary_clause", "certificate_revocation_list", "outbox", "audit_event", "audit_head", "audit_signed_head"),
    *("audit_archive", "notification_target"),
    *("service", "service_request", "service_certificate", "service_key", "managed_object"),
    *("usage_minute", "usage_hour", "usage_day", "usage_month", "usage_batch", "dashboard_session"),
    *("isolation_assessment", "root_key", "root_key_request", "root_key_change", "tenant_policy", "rotation"),
    *("destruction", "approval", "approval_vote", "shred_certificate", "agent", "protection_use", "backfill", "report"),
    *("join_token", "enrolment", "discovery", "protection", "protected_field", "key_probe"),
)

_COUNTS = " + ".join(
    f"(select count(*) from okcm.{table} where tenant_id = attempt.whose)"  # noqa: S608 - constants
    for table in _TABLES
)
# Each counts the rows it reached. `whose` owns the rows that it names, `own` is the tenant of a written row.
_STATEMENTS: Mapping[str, str] = MappingProxyType(
    {
        "read every table": f"select {_COUNTS} into reached",
        "read": "select count(*) into reached from okcm.tenant where tenant_id = attempt.whose",
        "update": (
            "with hit as (update okcm.tenant set ready_at = ready_at where tenant_id = attempt.whose returning 1)"
            " select count(*) into reached from hit"
        ),
        "insert": (
            "with hit as (insert into okcm.key (tenant_id, name, kind, version)"
            " values (attempt.whose, attempt.name, 'payload', 1) returning 1) select count(*) into reached from hit"
        ),
        "refer": (
            "with hit as (insert into okcm.route as kept (tenant_id, l2_key, issuer_fingerprint, region)"
            " values (attempt.own, attempt.l2_key, repeat('0', 64), 'nowhere')"
            " on conflict (tenant_id) do update set l2_key = excluded.l2_key, published_at = now() returning 1)"
            " select count(*) into reached from hit"
        ),
        "descend": (
            "with made as (insert into okcm.service (tenant_id, service, kind)"
            " values (attempt.own, attempt.name, 'microservice')),"
            " hit as (insert into okcm.service_key"
            " (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped)"
            " values (attempt.own, attempt.name, 1, attempt.l2_key, 'platform', 'nowhere', decode('00', 'hex'))"
            " returning 1) select count(*) into reached from hit"
        ),
    }
)
_CASES = "\n".join(f"when '{name}' then {statement};" for name, statement in _STATEMENTS.items())

# Only these errors count as a rejection: insufficient privilege (row security or grant) and foreign key violation. Any
# other error ends the block and is raised. `reached` survives the rollback, because variables are not rolled back.
# A statement is planned once for all attempts with it: planning takes longer than the attempts.
_BLOCK = f"""
do $attack$
declare
    attempt record;
    reached bigint;
    ending text;
    began timestamptz;
    endings text[] := '{{}}';
begin
    perform set_config('plan_cache_mode', 'force_generic_plan', true);
    for attempt in select * from jsonb_to_recordset(%(attempts)s::jsonb)
        as a(pretended text, context text, statement text, whose text, own text, l2_key text, name text)
    loop
        began := clock_timestamp();
        begin
            perform set_config('app.tenant_id', attempt.pretended, true), set_config('app.ctx', attempt.context, true);
            case attempt.statement
            {_CASES}
            end case;
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
"""  # noqa: S608 - constants
_NO_ROWS = "0 rows"


@dataclass(frozen=True, slots=True)
class _Pretence:
    """Values of `app.tenant_id` and `app.ctx` during a statement, and the name of the read attempt's statement."""

    name: str
    tenant_id: str
    context: str
    read: str = "read"


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
    """The SQLSTATE of a rejection, or the number of reached rows."""

    what: str
    seconds: float

    @property
    def reached(self) -> bool:
        return self.what.endswith(" rows") and self.what != _NO_ROWS


@dataclass(frozen=True, slots=True)
class _Plan:
    """The attacks in one direction, in order of execution."""

    controls: Sequence[_Attempt]
    references: Sequence[_Attempt]
    pretences: Sequence[_Pretence]
    reads_and_writes: Sequence[_Attempt]

    def attempts(self) -> Sequence[_Attempt]:
        return (*self.controls, *self.references, *self.reads_and_writes)


class RowSecuritySuite:
    """Attacks on row-level security with the role of a process without rights on other tenants (MTCI M2)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attack_each_other(self, one: str, other: str) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Attack each tenant's rows from the other's transaction; return the results of `one` and of `other`.

        The attacks are plain reads and writes with the other's id, a switched setting, and a context that is forged or
        was signed for another session or another transaction.

        Raises:
            DatabaseUnavailable: the database does not answer.
            CanaryMissing: one tenant has no rows to attack.
        """
        with self._database.raw_tx(one) as connection:
            [transaction] = connection.execute(CURRENT_TRANSACTION.encode()).fetchone() or ("",)
            forth = self._plan(one, other, str(transaction), "read every table", ("refer", "descend"))
            # Policies and references do not depend on the direction, so only one direction tests all of them.
            back = self._plan(other, one, str(transaction), "read", ("refer",))
            endings = iter(_make(connection, [*forth.attempts(), *back.attempts()]))
            connection.rollback()
        return _judged(forth, endings), _judged(back, endings)

    def _plan(self, attacker: str, victim: str, transaction: str, read: str, references: Sequence[str]) -> _Plan:
        """Return the attacks of `attacker`; pretences that test a single policy read with `read`."""
        own = self._database.sign(attacker, transaction)
        session, _, start = transaction.partition("|")
        other_session = self._database.sign(victim, f"{int(session) + 1}|{start}")
        other_transaction = self._database.sign(victim, f"{session}|{Decimal(start) - Decimal('0.000001')}")
        plain = _Pretence("plain", attacker, own, read)
        pretences = (
            plain,
            _Pretence("switched-setting", victim, own, read),
            _Pretence("forged-context", victim, secrets.token_hex(32)),
            _Pretence("other-session-context", victim, other_session),
            _Pretence("other-transaction-context", victim, other_transaction),
        )
        return _Plan(
            controls=[
                _attempt(plain, statement, attacker, own=attacker)
                for statement in (*dict.fromkeys((read, "read")), "update", "insert", *references)
            ],
            references=[_attempt(plain, reference, victim, own=attacker) for reference in references],
            pretences=pretences,
            reads_and_writes=[
                _attempt(pretence, statement, victim, own=victim)
                for pretence in pretences
                for statement in (pretence.read, "update", "insert")
            ],
        )


def _make(connection: Connection[TupleRow], attempts: Sequence[_Attempt]) -> Sequence[_Ending]:
    cursor = ClientCursor(connection)
    cursor.execute(_BLOCK.encode(), {"attempts": json.dumps([asdict(attempt) for attempt in attempts])})
    cursor.nextset()
    answer = cursor.fetchone()
    parts = [ending.split("/") for ending in str(answer[0] if answer else "").split(",")]
    return [_Ending(what, float(seconds)) for what, seconds in parts]


def _attempt(pretence: _Pretence, statement: str, whose: str, own: str) -> _Attempt:
    name = f"boundary-{secrets.token_hex(8)}"
    return _Attempt(pretence.tenant_id, pretence.context, statement, whose, own, l2_key(whose), name)


def _judged(plan: _Plan, endings: Iterator[_Ending]) -> Sequence[CheckResult]:
    # A rejected attack proves nothing if the same statement fails on the attacker's own rows.
    controls = [next(endings) for _ in plan.controls]
    if not all(ending.reached for ending in controls):
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
        evidence=f"attack: {', '.join(ending.what for ending in endings)}; the same on own rows succeeds",
    )
