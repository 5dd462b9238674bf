"""Scheduled workflows of the retention: deletion of expired rows, and the archive of audit streams.

Each run lists the due work again, so a lost run delays it and loses nothing.
"""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.retention import AuditArchiveActivities, RowRetentionActivities
    from workflows.runtime import timeouts as timing


@workflow.defn(name="DeleteExpiredRows")
class DeleteExpiredRows:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RowRetentionActivities.delete_expired_rows,
            summary="delete rows after their retention",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="ArchiveAuditStreams")
class ArchiveAuditStreams:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            AuditArchiveActivities.archive_streams,
            summary="archive old records of audit streams",
            start_to_close_timeout=timing.BUDGET_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
