"""The platform's scheduled work on all that ends: authorities, revocation lists, and what was not renewed.

Nothing here waits for a tenant. What is due is asked of the database anew each time, so a run that was lost, or a
tenant that was busy, costs an hour and never a certificate.
"""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.authorities import AuthorityActivities
    from activities.expiry import ExpiryActivities
    from activities.revocation import RevocationActivities
    from core import names as ids
    from core.messages.services import LateService, ServiceInput, ServiceMemory
    from workflows import priorities, timing
    from workflows.service import RENEW_SOON, ConnectService
    from workflows.telling import tell

AUTHORITY_DUE = "authority-due"
"""The signal by which a tenant's entity is asked to roll its authority."""
_TOLD_AT_ONCE = 50


@workflow.defn(name="RollDueAuthorities")
class RollDueAuthorities:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RevocationActivities.end_authorities,
            summary="end former authorities whose certificates have expired",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        due = await workflow.execute_activity_method(
            AuthorityActivities.due_authorities,
            summary="whose authority is to be rolled",
            start_to_close_timeout=timing.ATTEMPT,
            retry_policy=timing.RETRY,
        )
        await asyncio.gather(*(tell(tenant_id, AUTHORITY_DUE) for tenant_id in due.tenants))


@workflow.defn(name="PublishRevocationLists")
class PublishRevocationLists:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity_method(
            RevocationActivities.publish_revocation_lists,
            summary="make stale revocation lists anew",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )


@workflow.defn(name="CheckExpiry")
class CheckExpiry:
    @workflow.run
    async def run(self) -> None:
        late = await workflow.execute_activity_method(
            ExpiryActivities.check_expiry,
            summary="raise the alarm for what was not renewed",
            start_to_close_timeout=timing.HEADS_ATTEMPT,
            heartbeat_timeout=timing.HEARTBEAT,
            retry_policy=timing.RETRY,
        )
        for first in range(0, len(late.services), _TOLD_AT_ONCE):
            await asyncio.gather(*map(_try_again, late.services[first : first + _TOLD_AT_ONCE]))


async def _try_again(late: LateService) -> None:
    """Have a service's workflow renew now; where there is none, because histories were lost, it is started anew."""
    workflow_id = ids.service_workflow(late.tenant_id, late.service)
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(RENEW_SOON)
    except ApplicationError:
        memory = ServiceMemory(generation=late.generation, renew_at=workflow.now())
        try:
            await workflow.start_child_workflow(
                ConnectService.run,
                ServiceInput(tenant_id=late.tenant_id, region=late.region, service=late.service, memory=memory),
                id=workflow_id,
                task_queue=ids.task_queue(late.region),
                parent_close_policy=ParentClosePolicy.ABANDON,
                priority=priorities.service(late.tenant_id),
                static_summary=f"service {late.service} of {late.tenant_id}",
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.warning("service's workflow began meanwhile")
