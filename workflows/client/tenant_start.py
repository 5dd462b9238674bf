"""Options with which other processes start a tenant workflow."""

from typing import TypedDict

from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy

from core import names as ids
from core.keys.root_keys import RootKeyMode
from core.tenants.lifecycle import State
from workflows.runtime import options as priorities
from workflows.runtime import options as visibility


class _TenantOptions(TypedDict):
    id: str
    task_queue: str
    id_reuse_policy: WorkflowIDReusePolicy
    search_attributes: TypedSearchAttributes
    static_summary: str
    priority: Priority


def tenant_options(tenant_id: str, region: str) -> _TenantOptions:
    """Return the start options of a tenant's workflow.

    The search attributes are those of a new tenant, so that its workflow need not write them; a workflow that starts
    again writes those of the row.
    """
    return {
        "id": ids.tenant_workflow(tenant_id),
        "task_queue": ids.tenant_queue(region),
        "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        "search_attributes": TypedSearchAttributes(
            [
                SearchAttributePair(visibility.TENANT_ID, tenant_id),
                SearchAttributePair(visibility.REGION, region),
                SearchAttributePair(visibility.LIFECYCLE_STATE, State.PROVISIONING.value),
                SearchAttributePair(visibility.ROOT_KEY_MODE, RootKeyMode.PLATFORM.value),
            ]
        ),
        "static_summary": f"tenant {tenant_id}",
        "priority": priorities.enable(tenant_id),
    }
