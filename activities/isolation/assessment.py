"""The isolation assessment of a tenant: attacks for every clause; the gate runs only the quick ones.

A complete assessment is an ordered list of attacks (`worker.wiring.attacks`), each with its own results. A breach does
not stop the remaining attacks, because the evidence must be complete also where an isolation control fails. A daily
assessment makes only some of them (`core.isolation.is_complete_due`), and becomes complete when one succeeds.

Attacks and signatures leave no state behind, so one activity does both and records the results once for each run. After
a crash before the record the attacks run again; after a crash behind it the retry returns the recorded results.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from temporalio import activity

from activities.audit import CheckpointSigner
from activities.runtime.audit_trail import Clock, append_audit_event
from activities.runtime.metrics import Metrics
from core.isolation import (
    DAILY,
    LATE,
    CheckResult,
    ClauseResult,
    SignedClause,
    breaches,
    by_clause,
    clause_message,
    is_complete_due,
    summed_up,
    tally,
)
from core.messages.compliance import DueExamination, DueInput, DueResult, ExamineInput, ExamineResult
from core.tenants.lifecycle import DECRYPTS, State
from database.connection.database import Database
from database.isolation import AssessmentRow
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError

Attack = Callable[[str], Sequence[CheckResult]]
"""Attacks the tenant of this id and returns the results; raises only where an attack has no result."""

_LIVE = DECRYPTS | {State.LOCKED}
_PAGE = 200
_TROUBLED = 1000

log = structlog.get_logger()


class IsolationAssessmentActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        platform: PlatformQueries,
        attacks: Sequence[Attack],
        signer: CheckpointSigner,
        clock: Clock,
        metrics: Metrics,
        *,
        daily: Sequence[Attack] = (),
        complete_interval: timedelta = timedelta(days=1),
        per_second: float = 2.0,
        begin_repeat: Callable[[], None] = lambda: None,
    ) -> None:
        """Set the attacks of a complete assessment and of a `daily` one; without the latter each one is complete.

        `begin_repeat` makes attacks repeat the part whose recent results count for all tenants.
        """
        self._database = database
        self._platform = platform
        self._attacks = attacks
        self._daily = daily
        self._complete_interval = complete_interval
        self._per_second = per_second
        self._discard_shared_results = begin_repeat
        self._signer = signer
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name="assess-tenant")
    def examine_tenant(self, step: ExamineInput) -> ExamineResult:
        """Run every attack on a tenant and record the results, signed by clause, before any verdict.

        One transaction stores the rows, the audit event and the event of a breach. A server failure raises and records
        nothing, because an attack without a result proves nothing.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, recorded = tx.tenants.get(), tx.boundaries.examination(step.operation_id)
            daily, state = tx.boundaries.daily(), tx.boundaries.state()
        if recorded is not None:
            return _result(recorded)
        if daily is not None and daily.line.run == step.operation_id:
            return _daily_result(daily.line)
        if row is None or row.state not in _LIVE:
            return ExamineResult(examined=False)
        # The time before the attacks: a key rotation during the attacks then requires another assessment.
        began = self._clock()
        if step.repeat:
            self._discard_shared_results()
        first: Sequence[CheckResult] = ()
        if (
            step.daily
            and self._daily
            and not is_complete_due(state, began, self._platform.newest_breach(), self._complete_interval)
        ):
            first = self._attack(step, self._daily)
            if not breaches(first):
                return self._end_daily(step, began, first)
        results = _with_breaches(first, self._attack(step, self._attacks, first))
        lines = [summed_up(clause, found) for clause, found in sorted(by_clause(results).items())]
        found = AssessmentRow(step.operation_id, began, self._signed(step, began, lines))
        self._record(step, found, results)
        self._metrics.count_boundary_checks(results)
        return _result(found)

    def _attack(
        self, step: ExamineInput, attacks: Sequence[Attack], first: Sequence[CheckResult] = ()
    ) -> Sequence[CheckResult]:
        """Make attacks and return their results; raise the failure of one unless another or `first` succeeded."""
        results: list[CheckResult] = []
        failure: OpenKcmError | None = None
        for attack in attacks:
            try:
                results.extend(attack(step.tenant_id))
            except OpenKcmError as failed:
                failure = failure or failed
            activity.heartbeat(len(results))
        if failure is not None:
            if not breaches((*first, *results)):
                raise failure
            # A failed isolation control can make another attack fail. The breach is a verdict without that result.
            log.error("isolation attack without result beside a breach", tenant_id=step.tenant_id, code=failure.code)
        return results

    def _end_daily(self, step: ExamineInput, began: datetime, results: Sequence[CheckResult]) -> ExamineResult:
        """Record a daily assessment without a breach: one signed line and the audit event."""
        [line] = self._signed(step, began, [summed_up(DAILY, results)])
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            newest = tx.boundaries.daily()
            if newest is None or newest.line.run != step.operation_id:
                tx.boundaries.record_daily(line)
                append_audit_event(
                    tx,
                    step,
                    AuditName.BOUNDARY_CHECKED,
                    step.tenant_id,
                    "success",
                    run=line.run,
                    scope="daily",
                    clauses=tally(results),
                    held=str(line.held),
                    breached="",
                    not_checked=str(line.not_checked),
                )
        self._metrics.count_boundary_checks(results)
        return _daily_result(line)

    def _signed(self, step: ExamineInput, began: datetime, lines: Sequence[ClauseResult]) -> tuple[SignedClause, ...]:
        signed = self._signer.sign_all(
            [clause_message(step.tenant_id, step.operation_id, began, line) for line in lines]
        )
        return tuple(
            SignedClause(**line.model_dump(), run=step.operation_id, examined_at=began, signature=signature, key=key)
            for line, (signature, key) in zip(lines, signed, strict=True)
        )

    def _record(self, step: ExamineInput, found: AssessmentRow, results: Sequence[CheckResult]) -> None:
        broken = breaches(results)
        with self._database.tenant_tx(step.tenant_id) as tx:
            # A timed-out attempt may end at the same time as its successor; the row lock admits one of them.
            tx.tenants.lock()
            if tx.boundaries.examination(step.operation_id) is not None:
                return
            tx.boundaries.record_examination(found.lines, results)
            append_audit_event(
                tx,
                step,
                AuditName.BOUNDARY_CHECKED,
                step.tenant_id,
                "failure" if broken else "success",
                run=found.run,
                clauses=tally(results),
                held=str(found.held),
                breached=", ".join(broken),
                not_checked=str(found.not_checked),
            )
            if broken:
                append_audit_event(
                    tx,
                    step,
                    AuditName.BOUNDARY_BREACHED,
                    step.tenant_id,
                    "failure",
                    run=found.run,
                    breached=", ".join(broken),
                )
        if broken:
            log.critical("tenant boundary breached", tenant_id=step.tenant_id, run=found.run, checks=broken)

    @activity.defn(name="find-due-assessments")
    def find_due_examinations(self, due: DueInput) -> DueResult:
        """Return a page of tenants whose assessment is due; the first page also counts breached and late ones."""
        if not due.after:
            troubled = self._platform.troubled_examinations(LATE, _TROUBLED)
            self._metrics.count_troubled_examinations(one.why for one in troubled)
        found = self._platform.due_examinations(due.after, _PAGE)
        return DueResult(
            tenants=tuple(DueExamination(tenant_id=one, region=region) for one, region in found),
            per_second=self._per_second,
        )


def _with_breaches(first: Sequence[CheckResult], results: Sequence[CheckResult]) -> Sequence[CheckResult]:
    """Return the results with the breaches of the first attempt in place of later ones: a control may fail once."""
    breached = {(one.clause, one.name): one for one in first if one.outcome == "breached"}
    replaced = [breached.pop((one.clause, one.name), one) for one in results]
    return [*replaced, *breached.values()]


def _daily_result(line: SignedClause) -> ExamineResult:
    return ExamineResult(examined=True, held=line.held, not_checked=line.not_checked, complete=False)


def _result(found: AssessmentRow) -> ExamineResult:
    return ExamineResult(examined=True, held=found.held, breached=found.breached, not_checked=found.not_checked)
