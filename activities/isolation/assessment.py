"""The isolation assessment of a tenant: attacks for every clause; the gate runs only the quick ones.

An assessment is an ordered list of attacks (`worker.wiring.attacks`), each with its own results. A breach does not stop
the remaining attacks, because the evidence must be complete also where an isolation control fails.

Attacks and signatures leave no state behind, so one activity does both and records the results once for each run. After
a crash before the record the attacks run again; after a crash behind it the retry returns the recorded results.
"""

from collections.abc import Callable, Sequence

import structlog
from temporalio import activity

from activities.audit import CheckpointSigner
from activities.runtime.audit_trail import Clock, append_audit_event
from activities.runtime.metrics import Metrics
from core.isolation import LATE, CheckResult, SignedClause, breaches, by_clause, clause_message, summed_up, tally
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
        begin_repeat: Callable[[], None] = lambda: None,
    ) -> None:
        """`begin_repeat` makes attacks repeat the part whose recent results count for all tenants."""
        self._database = database
        self._platform = platform
        self._attacks = attacks
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
        if recorded is not None:
            return _result(recorded)
        if row is None or row.state not in _LIVE:
            return ExamineResult(examined=False)
        # The time before the attacks: a key rotation during the attacks then requires another assessment.
        began = self._clock()
        results: list[CheckResult] = []
        if step.repeat:
            self._discard_shared_results()
        failure: OpenKcmError | None = None
        for attack in self._attacks:
            try:
                results.extend(attack(step.tenant_id))
            except OpenKcmError as failed:
                failure = failure or failed
            activity.heartbeat(len(results))
        if failure is not None:
            if not breaches(results):
                raise failure
            # A failed isolation control can make another attack fail. The breach is a verdict without that result.
            log.error("isolation attack without result beside a breach", tenant_id=step.tenant_id, code=failure.code)
        lines = [summed_up(clause, found) for clause, found in sorted(by_clause(results).items())]
        signed = self._signer.sign_all(
            [clause_message(step.tenant_id, step.operation_id, began, line) for line in lines]
        )
        found = AssessmentRow(
            step.operation_id,
            began,
            tuple(
                SignedClause(
                    **line.model_dump(), run=step.operation_id, examined_at=began, signature=signature, key=key
                )
                for line, (signature, key) in zip(lines, signed, strict=True)
            ),
        )
        self._record(step, found, results)
        self._metrics.count_boundary_checks(results)
        return _result(found)

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
        return DueResult(tenants=tuple(DueExamination(tenant_id=one, region=region) for one, region in found))


def _result(found: AssessmentRow) -> ExamineResult:
    return ExamineResult(examined=True, held=found.held, breached=found.breached, not_checked=found.not_checked)
