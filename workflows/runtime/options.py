"""Task priorities and search attributes of workflows.

Temporal's task priorities (1 before 5) order the tasks when a region's workers are overloaded. Within one priority
`fairness_key` distributes the tasks over the tenants. Search attributes are not encrypted, so they contain only ids.
"""

from temporalio.common import Priority, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from core.names import MIRROR_TENANT_ID

_PROVISION, _ENABLE, _SERVICE = 1, 2, 3
_REPORT = _BACKGROUND = 4


def provision(tenant_id: str) -> Priority:
    """Return the priority of provisioning: before new tenants, so that started ones become active first."""
    return Priority(priority_key=_unless_background(_PROVISION, tenant_id), fairness_key=tenant_id)


def enable(tenant_id: str) -> Priority:
    """Return the priority of a new tenant: before services, because of the provisioning SLO.

    No caller waits for the second canary tenant, so it has a lower priority.
    """
    return Priority(priority_key=_unless_background(_ENABLE, tenant_id), fairness_key=tenant_id)


def service(tenant_id: str) -> Priority:
    """Return the priority of operations on services, keys and certificates."""
    return Priority(priority_key=_SERVICE, fairness_key=tenant_id)


def report(tenant_id: str) -> Priority:
    """Return the priority of reports: after all others, because a report may take some seconds longer."""
    return Priority(priority_key=_REPORT, fairness_key=tenant_id)


def _unless_background(usual: int, tenant_id: str) -> int:
    return _BACKGROUND if tenant_id == MIRROR_TENANT_ID else usual


TENANT_ID = SearchAttributeKey.for_keyword("TenantId")
REGION = SearchAttributeKey.for_keyword("Region")
LIFECYCLE_STATE = SearchAttributeKey.for_keyword("LifecycleState")
ROOT_KEY_MODE = SearchAttributeKey.for_keyword("RootKeyMode")
PROMISE_BROKEN = SearchAttributeKey.for_bool("ProvisioningSloBreached")

ALL = (TENANT_ID, REGION, LIFECYCLE_STATE, ROOT_KEY_MODE, PROMISE_BROKEN)


def of_tenant(tenant_id: str, region: str) -> TypedSearchAttributes:
    """Return the search attributes of a tenant's workflow."""
    return TypedSearchAttributes([SearchAttributePair(TENANT_ID, tenant_id), SearchAttributePair(REGION, region)])
