"""Scheduled workflows of the audit stream: signed checkpoints and reconciliation."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditCheckpointActivities, ReconcileActivities
    from workflows.runtime import timeouts as timing


@workflow.defn(name="SignAuditCheckpoints")
class SignAuditCheckpoints:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            AuditCheckpointActivities.sign_audit_heads,
            summary="sign checkpoints of audit streams with new records",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="ReconcileAudit")
class ReconcileAudit:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            ReconcileActivities.reconcile_audit,
            summary="reconcile the key server's log with the audit streams",
            start_to_close_timeout=timing.RECONCILE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
