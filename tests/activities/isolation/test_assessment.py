"""Isolation assessments of a real tenant: one signed record, the lock after a breach, and its release."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.audit import CheckpointSigner
from activities.isolation.assessment import Attack, IsolationAssessmentActivities
from activities.runtime.audit_trail import Clock
from core.errors.compliance import BreachNotCleared
from core.errors.keys import KeyUnavailable
from core.errors.platform import VaultUnavailable
from core.isolation import CheckResult, flaw
from core.messages.base import StepInput
from core.messages.compliance import DueInput, ExamineInput, ExamineResult
from core.messages.tenants import StatusChange, StatusChangeInput
from core.notifications import NotificationKind
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from database.platform.scheduled import PlatformQueries
from openkcm.verification.isolation_controls import DETAIL, tallied
from openkcm.verification.public_keys import PublicKeys
from tests.activities.counting import UNCOUNTED
from tests.activities.isolation.attacking import Widen
from tests.activities.provisioning import Provisioning
from tests.activities.recorded import Recorded
from worker.wiring import utc_now

BREACHED = [CheckResult(clause="U2", name="use", outcome="breached", seconds=0.1, evidence="it opened")]
HELD = [CheckResult(clause="U2", name="use", outcome="held", seconds=0.1, evidence="403")]
WIDE = 'path "transit/+/L2-*" { capabilities = ["update"] }'


class Examined(Recorded):
    """An active tenant and the steps of its isolation assessment."""

    def __init__(self, tenant: Provisioning) -> None:
        super().__init__(tenant.database, tenant.tenant_id)
        self.tenant, self._number = tenant, 0

    def examine(self, run: str = "examination-1") -> ExamineResult:
        """Run the attacks of the gate, which need only the servers of these tests."""
        return examine(an_examination(self.tenant, gate_of(self.tenant)), self.input(run))

    def input(self, run: str) -> ExamineInput:
        return ExamineInput(tenant_id=self.tenant_id, operation_id=run)

    def follow(self) -> Any:
        return self.tenant.run_with("apply-isolation-result", self._step())

    def ask(self, move: StatusChange) -> Any:
        return self.tenant.run_with("change-status", StatusChangeInput(**self._step().model_dump(), move=move))

    def _step(self) -> StepInput:
        self._number += 1
        return StepInput(tenant_id=self.tenant.tenant_id, operation_id=f"boundaries-{self._number}")

    @property
    def standing(self) -> tuple[State, tuple[LockReason, ...]]:
        return self.tenant_row.state, self.tenant_row.locks

    def names(self) -> list[str]:
        return [record["name"] for record in self.records()]

    def flaw(self, run: str = "examination-1") -> str:
        row, results = self.read(lambda tx: (tx.boundaries.examination(run), tx.boundaries.results_of(run)))
        keys = PublicKeys.from_database(PlatformQueries(self.database).audit_keys())
        return flaw(self.tenant_id, row.lines, keys.check, results)


@pytest.fixture
def examined(ready: Provisioning) -> Examined:
    return Examined(ready)


@pytest.fixture
def scripted(active: Provisioning) -> Examined:
    """Return an active tenant without a canary, for attacks with scripted results."""
    return Examined(active)


def gate_of(tenant: Provisioning) -> Attack:
    [gate] = [one for one in tenant.parts.lifecycle if one.__name__ == "check_boundaries"]
    return gate.__self__.attack  # type: ignore[attr-defined,no-any-return]  # a bound method


def an_examination(tenant: Provisioning, *attacks: Attack, clock: Clock = utc_now) -> IsolationAssessmentActivities:
    database = tenant.database
    return IsolationAssessmentActivities(
        database,
        PlatformQueries(database),
        attacks,
        CheckpointSigner(PlatformQueries(database), tenant.parts.signer),
        clock,
        UNCOUNTED,
    )


def test_assessment_is_recorded_once_with_valid_signatures(examined: Examined) -> None:
    first = examined.examine()
    assert first.examined
    assert first.held > 0
    assert (first.breached, first.not_checked) == (0, 0)
    assert examined.examine() == first
    assert examined.names().count("isolation.checked") == 2  # of the gate and of this assessment
    assert examined.flaw() == ""
    details = examined.tenant.records()[-1]["details"]
    assert sum(held for held, _, _ in tallied(details[DETAIL]).values()) == first.held
    assert details["run"] == "examination-1"


EDITS = [
    "update okcm.boundary_result set outcome = 'breached' where number = 1 and",
    "update okcm.boundary_result set evidence = 'nothing' where number = 2 and",
    "delete from okcm.boundary_result where number = 3 and",
    "update okcm.boundary_clause set breached = 0, held = held + 1 where clause = 'M2' and",
    "update okcm.boundary_clause set examined_at = examined_at + interval '1 second' where clause = 'M2' and",
    "update okcm.boundary_clause set signature = 'MEUCIQ==' where",
    "delete from okcm.boundary_clause where clause = 'M2' and",
    "update okcm.boundary_clause set operation_id = 'moved' where",
]


def test_evidence_altered_in_the_database_is_detected(examined: Examined, field) -> None:
    for number, edit in enumerate(EDITS):
        run = f"examination-{number}"
        examined.examine(run)
        assert examined.flaw(run) == ""
        with field.administrator() as administrator:
            administrator.execute(f"{edit} operation_id = %s", [run])
        assert examined.flaw("moved" if "'moved'" in edit else run), edit


def test_evidence_of_one_tenant_is_not_valid_for_another(examined: Examined, field) -> None:
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


def test_breach_locks_and_notifies_and_is_cleared_only_after_a_passed_assessment(examined, widen) -> None:
    with widen("tenant", WIDE):
        assert examined.examine().breached > 0
    assert examined.names()[-2:] == ["isolation.checked", "isolation.breached"]
    assert examined.flaw() == ""
    for _ in range(2):
        followed = examined.follow()
        assert followed.state is State.LOCKED
    assert examined.standing == (State.LOCKED, (LockReason.BREACH,))
    assert examined.announced().count(NotificationKind.BREACHED) == 2  # once per channel

    # Neither the customer's unlock releases it, nor an operator before an assessment passed.
    with pytest.raises(BreachNotCleared):
        examined.ask(StatusChange.CLEAR_BREACH)
    assert examined.ask(StatusChange.UNLOCK).state is State.LOCKED
    assert examined.examine("examination-2").breached == 0
    assert examined.follow().state is State.LOCKED
    assert examined.ask(StatusChange.CLEAR_BREACH).notification is NotificationKind.UNLOCKED
    assert examined.standing == (State.ACTIVE, ())
    assert examined.follow().state is State.ACTIVE
    assert examined.names()[-1] == "tenant.isolation_lock_cleared"


def test_manual_lock_and_breach_are_released_separately(examined: Examined, widen: Widen) -> None:
    examined.ask(StatusChange.LOCK)
    with widen("tenant", WIDE):
        examined.examine()
    assert examined.follow().notification is NotificationKind.BREACHED
    examined.examine("examination-2")
    assert examined.ask(StatusChange.CLEAR_BREACH).state is State.LOCKED
    assert examined.standing == (State.LOCKED, (LockReason.MANUAL,))
    assert examined.ask(StatusChange.UNLOCK).state is State.ACTIVE


def test_assessment_that_crashes_before_its_record_is_repeated(scripted: Examined) -> None:
    tenant, made = scripted.tenant, []

    def attack(_tenant_id: str) -> list[CheckResult]:
        made.append(1)
        if len(made) == 1:
            raise VaultUnavailable
        return HELD

    step, activities = scripted.input("examination-9"), an_examination(tenant, attack)
    with pytest.raises(VaultUnavailable):
        examine(activities, step)
    assert scripted.read(lambda tx: tx.boundaries.examination()) is None
    assert examine(activities, step) == examine(activities, step)
    assert len(made) == 2
    tenant.assert_audited_once()


def test_breach_is_recorded_also_when_another_attack_has_no_result(scripted: Examined) -> None:
    tenant = scripted.tenant

    def broken(_tenant_id: str) -> list[CheckResult]:
        raise VaultUnavailable

    for attacks in ([broken, lambda _: BREACHED], [lambda _: BREACHED, broken]):
        step = scripted.input(f"examination-{len(scripted.names())}")
        assert examine(an_examination(tenant, *attacks), step).breached == 1


def test_two_concurrent_attempts_record_one_assessment(scripted: Examined) -> None:
    tenant = scripted.tenant
    step = scripted.input("examination-9")
    ended: list[ExamineResult] = []

    def attack(_tenant_id: str) -> list[CheckResult]:
        if not ended:
            ended.append(ExamineResult(examined=False))
            ended.append(examine(activities, step))
        return HELD

    activities = an_examination(tenant, attack)
    assert examine(activities, step).held == 1
    tenant.assert_audited_once()
    assert scripted.flaw("examination-9") == ""


def test_assessment_without_signature_records_nothing(scripted: Examined) -> None:
    tenant = scripted.tenant

    class Unavailable:
        def sign_all(self, messages: Sequence[bytes]) -> Sequence[tuple[str, str]]:
            raise KeyUnavailable(f"{len(messages)} messages")

        def sign(self, message: bytes) -> tuple[str, str]:
            raise KeyUnavailable(message.decode())

        def public_keys(self) -> dict[str, str]:
            return {}

    signer = CheckpointSigner(tenant.parts.queries, Unavailable())
    activities = IsolationAssessmentActivities(
        tenant.database, tenant.parts.queries, [lambda _: HELD], signer, utc_now, UNCOUNTED
    )
    with pytest.raises(KeyUnavailable):
        examine(activities, scripted.input("examination-9"))
    assert scripted.read(lambda tx: tx.boundaries.examination()) is None
    assert scripted.names().count("isolation.checked") == 0


def test_tenant_is_due_until_assessed_also_when_locked_and_not_during_offboarding(examined, field) -> None:
    def due() -> list[str]:
        found = examined.tenant.run_with("find-due-assessments", DueInput())
        return [one.tenant_id for one in found.tenants]

    assert due() == []
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set ready_at = now() - interval '25 hours'")
        administrator.execute("update okcm.route set published_at = now() - interval '26 hours'")
    assert due() == [examined.tenant_id]
    examined.ask(StatusChange.LOCK)
    assert examined.examine().examined
    assert due() == []
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set state = 'offboarding'")
    assert not examined.examine("examination-2").examined


def examine(activities: IsolationAssessmentActivities, step: ExamineInput) -> ExamineResult:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, workflow_id=f"tenant/{step.tenant_id}/isolation")
    found = environment.run(activities.examine_tenant, step)
    assert isinstance(found, ExamineResult)
    return found
