"""The platform's own scheduled work: audit heads, the outbox, credentials that nobody came for."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.audit_heads import AuditHeadActivities
    from activities.notifications import NotificationActivities
    from activities.watching import WatchActivities
    from workflows import timing


@workflow.defn(name="SignAuditHeads")
class SignAuditHeads:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            AuditHeadActivities.sign_audit_heads,
            summary="sign the heads of audit streams that grew",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="SweepOutbox")
class SweepOutbox:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            NotificationActivities.sweep_outbox,
            summary="send the announcements that are still waiting",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="ForgetUntakenCredentials")
class ForgetUntakenCredentials:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            WatchActivities.forget_untaken_credentials,
            summary="forget credentials that nobody came for",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
