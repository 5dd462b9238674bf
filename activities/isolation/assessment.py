"""The full examination of a tenant: attacks on it for every clause, where the gate makes the quick ones.

It is an ordered list of attacks (`worker.wiring.attacks`), each of which gives the results of its own. What
one of them finds does not keep the others from being made: the evidence is to be whole also where a wall is down.

Attacking and signing leave nothing behind, so one activity does both and its one effect is to record them, once for a
run: whoever is killed before that attacks again, whoever is killed after it finds what it recorded.
"""

from collections.abc import Callable, Sequence

import structlog
from temporalio import activity

from activities.audit import CheckpointSigner
from activities.audit_trail import Clock, append_audit_event
from activities.metrics import Metrics
from core.isolation import LATE, CheckResult, SignedClause, breaches, by_clause, clause_message, summed_up, tally
from core.messages.compliance import DueExamination, DueInput, DueResult, ExamineInput, ExamineResult
from core.tenants.lifecycle import DECRYPTS, State
from database.connection.database import Database
from database.isolation import AssessmentRow
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError

Attack = Callable[[str], Sequence[CheckResult]]
"""Attacks the tenant of this id and returns how that ended; raises only where it could not be found out."""

_LIVE = DECRYPTS | {State.LOCKED}
_PAGE = 200
_TROUBLED = 1000

log = structlog.get_logger()


class IsolationAssessmentActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of, by name
        self,
        database: Database,
        platform: PlatformQueries,
        attacks: Sequence[Attack],
        signer: CheckpointSigner,
        clock: Clock,
        metrics: Metrics,
        *,
        begin_anew: Callable[[], None] = lambda: None,
    ) -> None:
        """`begin_anew` has attacks forget what they found lately for all tenants alike, and make it again."""
        self._database = database
        self._platform = platform
        self._attacks = attacks
        self._begin_anew = begin_anew
        self._signer = signer
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name="examine-tenant")
    def examine_tenant(self, step: ExamineInput) -> ExamineResult:
        """Attack a tenant in every way, and record how each attack ended, signed by clause, before anybody judges.

        Rows, audit record and, of a breach, the record of that are one transaction. Where servers fail it raises, and
        nothing is recorded: what came to no result is evidence of nothing.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            row, recorded = tx.tenants.get(), tx.boundaries.examination(step.operation_id)
        if recorded is not None:
            return _result(recorded)
        if row is None or row.state not in _LIVE:
            return ExamineResult(examined=False)
        # From before the attacks: a key that is rotated while they are made asks for another examination.
        began = self._clock()
        results: list[CheckResult] = []
        if step.anew:
            self._begin_anew()
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
            # A wall that is down can take the floor from under another attack. What was found is a verdict without it.
            log.error("an attack came to no result beside a breach", tenant_id=step.tenant_id, code=failure.code)
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
            # An attempt that Temporal has given up may end beside its successor; the row lets one of them in.
            tx.tenants.lock()
            if tx.boundaries.examination(step.operation_id) is not None:
                return
            tx.boundaries.record_examination(found.lines, results)
            tx.boundaries.trim()
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

    @activity.defn(name="find-due-examinations")
    def find_due_examinations(self, due: DueInput) -> DueResult:
        """Return whose examination is due, a page of them; and count at the first page whom somebody must look at."""
        if not due.after:
            troubled = self._platform.troubled_examinations(LATE, _TROUBLED)
            self._metrics.count_troubled_examinations(one.why for one in troubled)
        found = self._platform.due_examinations(due.after, _PAGE)
        return DueResult(tenants=tuple(DueExamination(tenant_id=one, region=region) for one, region in found))


def _result(found: AssessmentRow) -> ExamineResult:
    return ExamineResult(examined=True, held=found.held, breached=found.breached, not_checked=found.not_checked)
