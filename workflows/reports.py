"""MakeReport: one compliance report, from how the tenant stands to its signed files.

The steps carry the numbers of docs/reports.md, which argues their order. Each is safe to run twice, and what a step
before it found is on record, so a report that is asked for again after a failure is the same report.
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditCheckpointActivities
    from activities.reports import ReportActivities
    from core.messages.base import StepInput
    from core.messages.compliance import MakeReportInput, ReportStep
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity
    from workflows.runtime.failures import refusal_of


@workflow.defn(name="MakeReport")
class GenerateReport:
    @workflow.run
    async def run(self, make: MakeReportInput) -> None:
        step = ReportStep(tenant_id=make.tenant_id, operation_id=f"report-{make.report_id}", report_id=make.report_id)
        workflow.set_current_details("**Making** a compliance report")
        try:
            await self._make(step)
        except ActivityError as failed:
            raise refusal_of(failed) from failed
        workflow.set_current_details("**Made:** the report can be downloaded")

    async def _make(self, step: ReportStep) -> None:
        await run_activity(
            ReportActivities.state_report,
            step,
            "1 · read how the tenant stands, and bind it to the stream",
            patience=timing.REPORT_PATIENCE,
        )
        await run_activity(
            AuditCheckpointActivities.sign_audit_head,
            StepInput(tenant_id=step.tenant_id, operation_id=step.operation_id),
            "2 · sign the stream past that",
            patience=timing.REPORT_PATIENCE,
        )
        await run_activity(
            ReportActivities.make_report,
            step,
            "3 · count, set, sign and store",
            attempt=timing.REPORT_ATTEMPT,
            patience=timing.REPORT_PATIENCE,
            heartbeat=timing.HEARTBEAT,
        )
