"""Dispatch of stored notifications, and deliveries that a user requests."""

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import NotificationActivities
    from core.messages.notifications import DeliverInput
    from workflows.runtime import timeouts as timing
    from workflows.runtime.activity_calls import run_activity
    from workflows.runtime.failures import refusal_of


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


@workflow.defn(name="DeliverNotification")
class DeliverNotification:
    """A test message to a target, or another attempt of a message, at the request of a user."""

    @workflow.run
    async def run(self, request: DeliverInput) -> None:
        try:
            await run_activity(
                NotificationActivities.deliver,
                request,
                "send a notification to a target",
                attempt=timing.DELIVERY_ATTEMPT,
                deadline=timing.DELIVERY_DEADLINE,
                heartbeat=timing.HEARTBEAT,
            )
        except ActivityError as failed:
            raise refusal_of(failed) from failed
