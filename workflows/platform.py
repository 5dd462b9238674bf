"""The platform's own scheduled work: audit heads, the outbox, credentials that nobody came for, keys that are due."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.audit_heads import AuditHeadActivities
    from activities.following import FollowActivities
    from activities.notifications import NotificationActivities
    from activities.reconciling import ReconcileActivities
    from activities.rotation import RotationActivities
    from activities.stuck_rotations import StuckRotationActivities
    from activities.watching import WatchActivities
    from workflows import timing
    from workflows.rotate import ROTATION_DUE
    from workflows.telling import tell


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


@workflow.defn(name="RotateDueKeys")
class RotateDueKeys:
    """Tells those concerned; whether and what is rotated is each tenant's entity's to decide."""

    @workflow.run
    async def run(self) -> None:
        if workflow.patched("stuck-rotations"):
            await self._tell_of_stuck_rotations()
        due = await workflow.execute_activity_method(
            RotationActivities.find_due_rotations,
            summary="find whose keys are older than they want",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(tell(tenant_id, ROTATION_DUE) for tenant_id in due.tenants))

    async def _tell_of_stuck_rotations(self) -> None:
        """Before they are tried again; but that nobody can be told keeps no key from being rotated."""
        try:
            await workflow.execute_activity_method(
                StuckRotationActivities.check_rotations,
                summary="raise the alarm for rotations that did not come to their end",
                start_to_close_timeout=timing.HEADS_ATTEMPT,
                schedule_to_close_timeout=timing.ALARM_PATIENCE,
                heartbeat_timeout=timing.HEARTBEAT,
                retry_policy=timing.RETRY,
            )
        except ActivityError:
            workflow.logger.warning("stuck rotations were not told of")


@workflow.defn(name="NoticeRootKeyVersions")
class NoticeRootKeyVersions:
    """Tells those whose root key has a newer version, on record by then; their entities wrap everything anew."""

    @workflow.run
    async def run(self) -> None:
        behind = await workflow.execute_activity_method(
            FollowActivities.notice_root_key_versions,
            summary="ask each root key for its newest version",
            start_to_close_timeout=timing.NOTICE_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(tell(tenant_id, ROTATION_DUE) for tenant_id in behind.tenants))
