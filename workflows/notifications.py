"""Dispatch of stored notifications."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from workflows.runtime import timeouts as timing


@workflow.defn(name="DispatchNotifications")
class DispatchNotifications:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            NotificationActivities.sweep_outbox,
            summary="send unsent notifications",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
