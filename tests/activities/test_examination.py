"""The examination of a real tenant: recorded once and signed; a wall that fell locks, and who opens it again."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import pytest
from temporalio.testing import ActivityEnvironment

from activities.examination import Attack, ExaminationActivities
from activities.journal import Clock
from activities.signing import RecordedSigner
from config.public_keys import PublicKeys
from tenancy.boundaries import CheckResult
from tenancy.boundary_tally import DETAIL, tallied
from tenancy.errors import KeyUnavailable, VaultUnavailable
from tenancy.events import AnnouncementKind
from tenancy.examination import flaw
from tenancy.examination_errors import BreachNotCleared
from tenancy.lifecycle import State
from tenancy.locks import LockReason
from tenancy.messages import DueInput, ExamineInput, ExamineResult, StandingInput, StandingMove, StepInput
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning
from worker.wiring import utc_now

BREACHED = [CheckResult(clause="U2", name="use", outcome="breached", seconds=0.1, evidence="it opened")]
HELD = [CheckResult(clause="U2", name="use", outcome="held", seconds=0.1, evidence="403")]
_TENANT_POLICY = "sys/policies/acl/openkcm-tenant"


class Examined:
    """An active tenant, and what is done about its boundaries."""

    def __init__(self, tenant: Provisioning) -> None:
        self.tenant, self._number = tenant, 0

    def examine(self, run: str = "examination-1") -> ExamineResult:
        """Make the attacks of the gate, which need no more servers than these tests have."""
        activities = an_examination(self.tenant, gate_of(self.tenant))
        return examine(activities, ExamineInput(tenant_id=self.tenant.tenant_id, operation_id=run))

    def follow(self):
        return self.tenant.run_with("follow-boundaries", self._step())

    def ask(self, move: StandingMove):
        return self.tenant.run_with("change-standing", StandingInput(**self._step().model_dump(), move=move))

    def _step(self) -> StepInput:
        self._number += 1
        return StepInput(tenant_id=self.tenant.tenant_id, operation_id=f"boundaries-{self._number}")

    @property
    def standing(self) -> tuple[State, tuple[LockReason, ...]]:
        with self.tenant.database.tenant_tx(self.tenant.tenant_id) as tx:
            row = tx.tenants.get()
        assert row is not None
        return row.state, row.locks

    def names(self) -> list[str]:
        return [record["name"] for record in self.tenant.audited()]

    def flaw(self, run: str) -> str:
        database = self.tenant.database
        with database.tenant_tx(self.tenant.tenant_id) as tx:
            row, results = tx.boundaries.examination(run), tx.boundaries.results_of(run)
        assert row is not None
        return flaw(self.tenant.tenant_id, row.lines, PublicKeys.on_record(database.audit_keys()).check, results)


@pytest.fixture
def examined(canary: Provisioning, tenant: Provisioning) -> Examined:
    assert canary.is_done(Step.ACTIVATE)
    tenant.run_until(Step.ACTIVATE)
    return Examined(tenant)


@pytest.fixture
def wide_policy(vault_admin) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Return what widens the policy of all tenants to every tenant's key, and what mends it."""
    policy = (vault_admin.read(_TENANT_POLICY) or {})["policy"]
    wide = 'path "transit/+/L2-*" { capabilities = ["update"] }'

    def mend() -> object:
        return vault_admin.write(_TENANT_POLICY, {"policy": policy})

    yield lambda: vault_admin.write(_TENANT_POLICY, {"policy": wide}), mend
    mend()


def gate_of(tenant: Provisioning) -> Attack:
    [gate] = [one for one in tenant.parts.lifecycle if one.__name__ == "check_boundaries"]
    attack: Attack = gate.__self__.attack  # type: ignore[attr-defined]  # a bound method, as all of them are
    return attack


def an_examination(tenant: Provisioning, *attacks: Attack, clock: Clock = utc_now) -> ExaminationActivities:
    database = tenant.database
    return ExaminationActivities(database, database, attacks, RecordedSigner(database, tenant.parts.signer), clock)


def test_an_examination_is_recorded_once_with_signatures_that_fit(examined: Examined) -> None:
    first = examined.examine()
    assert first.examined
    assert first.held > 0
    assert (first.breached, first.not_checked) == (0, 0)
    assert examined.examine() == first
    assert examined.names().count("boundary.checked") == 2  # the gate's, and this one
    assert examined.flaw("examination-1") == ""
    details = examined.tenant.audited()[-1]["details"]
    assert sum(held for held, _, _ in tallied(details[DETAIL]).values()) == first.held
    assert details["run"] == "examination-1"


@pytest.mark.parametrize(
    "edit",
    [
        "update okcm.boundary_result set outcome = 'breached' where number = 1",
        "update okcm.boundary_result set evidence = 'nothing' where number = 2",
        "delete from okcm.boundary_result where number = 3",
        "update okcm.boundary_clause set breached = 0, held = held + 1 where clause = 'M2'",
        "update okcm.boundary_clause set examined_at = examined_at + interval '1 second' where clause = 'M2'",
        "update okcm.boundary_clause set operation_id = 'examination-2'",
        "update okcm.boundary_clause set signature = 'MEUCIQ=='",
        "delete from okcm.boundary_clause where clause = 'M2'",
    ],
)
def test_whoever_writes_to_the_evidence_past_the_controller_is_found(examined: Examined, field, edit: str) -> None:
    examined.examine()
    with field.administrator() as administrator:
        administrator.execute(f"{edit}{' and' if ' where ' in edit else ' where'} operation_id like 'examination-%'")
    assert examined.flaw("examination-2" if "examination-2" in edit else "examination-1")


def test_evidence_of_one_tenant_is_none_of_another(examined: Examined, field) -> None:
    examined.examine()
    with field.administrator() as administrator:
        for table in ("boundary_result", "boundary_clause"):
            columns = administrator.execute(
                "select string_agg(column_name, ', ') from information_schema.columns where table_schema = 'okcm'"
                " and table_name = %s and column_name <> 'tenant_id'",
                [table],
            ).fetchone()[0]
            administrator.execute(
                f"insert into okcm.{table} (tenant_id, {columns}) select 'openkcm-canary', {columns}"
                f" from okcm.{table} where operation_id = 'examination-1'"
            )
    stolen = Examined(examined.tenant.__class__(examined.tenant.parts, "openkcm-canary"))
    assert stolen.flaw("examination-1")


def test_a_breach_locks_tells_and_opens_only_after_an_examination_without_one(
    examined: Examined, wide_policy: tuple[Callable[[], object], Callable[[], object]]
) -> None:
    widen, mend = wide_policy
    widen()
    assert examined.examine().breached > 0
    assert examined.names()[-2:] == ["boundary.checked", "boundary.breached"]
    assert examined.flaw("examination-1") == ""
    for _ in range(2):
        followed = examined.follow()
        assert followed.state is State.LOCKED
    assert examined.standing == (State.LOCKED, (LockReason.BREACH,))
    with examined.tenant.database.tenant_tx(examined.tenant.tenant_id) as tx:
        told = [one.kind for one, _ in tx.outbox.all() if one.kind is AnnouncementKind.BREACHED]
    assert len(told) == 2  # once by each channel

    # Neither the customer's own unlock opens it, nor an operator before the wall was seen to stand.
    with pytest.raises(BreachNotCleared):
        examined.ask(StandingMove.CLEAR_BREACH)
    assert examined.ask(StandingMove.UNLOCK).state is State.LOCKED
    mend()
    assert examined.examine("examination-2").breached == 0
    assert examined.follow().state is State.LOCKED
    assert examined.ask(StandingMove.CLEAR_BREACH).told is AnnouncementKind.UNLOCKED
    assert examined.standing == (State.ACTIVE, ())
    assert examined.follow().state is State.ACTIVE
    assert examined.names()[-1] == "tenant.breach_cleared"


def test_a_kill_switch_and_a_breach_each_go_by_themselves(
    examined: Examined, wide_policy: tuple[Callable[[], object], Callable[[], object]]
) -> None:
    widen, mend = wide_policy
    examined.ask(StandingMove.LOCK)
    widen()
    examined.examine()
    assert examined.follow().told is AnnouncementKind.BREACHED
    mend()
    examined.examine("examination-2")
    assert examined.ask(StandingMove.CLEAR_BREACH).state is State.LOCKED
    assert examined.standing == (State.LOCKED, (LockReason.SWITCH,))
    assert examined.ask(StandingMove.UNLOCK).state is State.ACTIVE


def test_row_security_that_was_taken_down_is_a_breach_of_this_tenant(examined: Examined, field) -> None:
    with field.administrator() as administrator:
        administrator.execute("drop policy signed on okcm.route")
        administrator.execute("alter table okcm.route disable row level security")
    assert examined.examine().breached > 0
    assert examined.follow().state is State.LOCKED


def test_whoever_dies_before_the_record_leaves_nothing_and_whoever_follows_attacks_again(examined: Examined) -> None:
    tenant, made = examined.tenant, []

    def attack(_tenant_id: str) -> list[CheckResult]:
        made.append(1)
        if len(made) == 1:
            raise VaultUnavailable
        return HELD

    step = ExamineInput(tenant_id=tenant.tenant_id, operation_id="examination-9")
    activities = an_examination(tenant, attack)
    with pytest.raises(VaultUnavailable):
        examine(activities, step)
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        assert tx.boundaries.examination() is None
    assert examine(activities, step) == examine(activities, step)
    assert len(made) == 2
    tenant.assert_audited_once()


def test_a_breach_is_recorded_also_where_another_attack_came_to_no_result(examined: Examined) -> None:
    tenant = examined.tenant

    def broken(_tenant_id: str) -> list[CheckResult]:
        raise VaultUnavailable

    signer = RecordedSigner(tenant.database, tenant.parts.signer)
    for attacks in ([broken, lambda _: BREACHED], [lambda _: BREACHED, broken]):
        activities = ExaminationActivities(tenant.database, tenant.database, attacks, signer, utc_now)
        step = ExamineInput(tenant_id=tenant.tenant_id, operation_id=f"examination-{len(examined.names())}")
        assert examine(activities, step).breached == 1


def test_two_attempts_that_end_side_by_side_record_one_examination(examined: Examined) -> None:
    tenant = examined.tenant
    step = ExamineInput(tenant_id=tenant.tenant_id, operation_id="examination-9")
    ended: list[ExamineResult] = []

    def attack(_tenant_id: str) -> list[CheckResult]:
        if not ended:
            ended.append(ExamineResult(examined=False))
            ended.append(examine(activities, step))
        return HELD

    activities = an_examination(tenant, attack)
    assert examine(activities, step).held == 1
    tenant.assert_audited_once()
    assert examined.flaw("examination-9") == ""


def test_without_its_signature_nothing_is_recorded(examined: Examined) -> None:
    tenant = examined.tenant

    class Unavailable:
        def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
            raise KeyUnavailable(f"{len(messages)} messages")

        def sign(self, message: bytes) -> tuple[str, str]:
            raise KeyUnavailable(message.decode())

        def public_keys(self) -> dict[str, str]:
            return {}

    signer = RecordedSigner(tenant.database, Unavailable())
    activities = ExaminationActivities(tenant.database, tenant.database, [lambda _: HELD], signer, utc_now)
    with pytest.raises(KeyUnavailable):
        examine(activities, ExamineInput(tenant_id=tenant.tenant_id, operation_id="examination-9"))
    with tenant.database.tenant_tx(tenant.tenant_id) as tx:
        assert tx.boundaries.examination() is None
    assert examined.names().count("boundary.checked") == 1  # the gate's


def test_a_locked_tenant_is_examined_and_one_that_leaves_is_not(examined: Examined, field) -> None:
    examined.ask(StandingMove.LOCK)
    assert examined.examine().examined
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set state = 'leaving'")
    assert not examined.examine("examination-2").examined


def test_who_is_due_is_found_and_no_longer_once_examined(examined: Examined, field) -> None:
    def due() -> list[str]:
        found = examined.tenant.run_with("find-due-examinations", DueInput())
        return [one.tenant_id for one in found.tenants]

    assert due() == []
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set ready_at = now() - interval '25 hours'")
        administrator.execute("update okcm.route set published_at = now() - interval '26 hours'")
    assert due() == [examined.tenant.tenant_id]
    examined.examine()
    assert due() == []


def examine(activities: ExaminationActivities, step: ExamineInput) -> ExamineResult:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id=f"tenant/{step.tenant_id}/boundaries")
    found = environment.run(activities.examine_tenant, step)
    assert isinstance(found, ExamineResult)
    return found
