"""The platform's own scheduled work: audit heads, the outbox, credentials that nobody came for, keys that are due."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.audit import AuditCheckpointActivities, ReconcileActivities
    from workflows.runtime import timeouts as timing


@workflow.defn(name="SignAuditHeads")
class SignAuditCheckpoints:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            AuditCheckpointActivities.sign_audit_heads,
            summary="sign the heads of audit streams that grew",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="ReconcileAudit")
class ReconcileAudit:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            ReconcileActivities.reconcile_audit,
            summary="hold the key server's own log against the audit streams",
            start_to_close_timeout=timing.RECONCILE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
