"""GenerateReport: one compliance report, from the snapshot of the tenant to the signed files.

The step numbers are those of docs/reports.md, which explains their order. Each step is idempotent and uses the recorded
result of the previous one, so a repeated request after a failure generates the same report.
"""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditCheckpointActivities
    from activities.reports import ReportActivities
    from core.messages.base import StepInput
    from core.messages.compliance import MakeReportInput, ReportStep
    from core.names import ActivityKind
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity
    from workflows.runtime.failures import refusal_of


@workflow.defn(name="GenerateReport")
class GenerateReport:
    @workflow.run
    async def run(self, make: MakeReportInput) -> None:
        step = ReportStep(tenant_id=make.tenant_id, operation_id=f"report-{make.report_id}", report_id=make.report_id)
        workflow.set_current_details("**Generating** a compliance report")
        try:
            await self._generate(step)
        except ActivityError as failed:
            raise refusal_of(failed) from failed
        workflow.set_current_details("**Ready:** the report can be downloaded")

    async def _generate(self, step: ReportStep) -> None:
        await run_activity(
            ReportActivities.state_report,
            step,
            "1 · read the snapshot and append its digest to the stream",
            deadline=timing.REPORT_DEADLINE,
            kind=ActivityKind.LONG,
        )
        await run_activity(
            AuditCheckpointActivities.sign_audit_head,
            StepInput(tenant_id=step.tenant_id, operation_id=step.operation_id),
            "2 · sign the checkpoint after it",
            deadline=timing.REPORT_DEADLINE,
        )
        await run_activity(
            ReportActivities.make_report,
            step,
            "3 · derive, render, sign and store",
            attempt=timing.REPORT_ATTEMPT,
            deadline=timing.REPORT_DEADLINE,
            heartbeat=timing.HEARTBEAT,
            kind=ActivityKind.LONG,
        )
