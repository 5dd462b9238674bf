"""Who goes first when a region's workers have more to do than they can: Temporal's task priorities, 1 before 5.

Within one priority each tenant has its fair turn (`fairness_key`).

What operators can search for and read in the Temporal UI. Ids only: search attributes are never encrypted.
"""

from temporalio.common import Priority, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from core.names import MIRROR_TENANT_ID

_PROVISION, _ENABLE, _SERVICE = 1, 2, 3
_REPORT = _NOBODY = 4


def provision(tenant_id: str) -> Priority:
    """Before new tenants: when many come at once, whoever is begun is made ready first."""
    return Priority(priority_key=_last_or(_PROVISION, tenant_id), fairness_key=tenant_id)


def enable(tenant_id: str) -> Priority:
    """Before services: somebody waits for the tenant with a promise of minutes. For the mirror nobody waits."""
    return Priority(priority_key=_last_or(_ENABLE, tenant_id), fairness_key=tenant_id)


def service(tenant_id: str) -> Priority:
    """Connecting, renewing and disconnecting; changing a root key."""
    return Priority(priority_key=_SERVICE, fairness_key=tenant_id)


def report(tenant_id: str) -> Priority:
    """After all that keeps keys in use: somebody waits for a document, and seconds more are none."""
    return Priority(priority_key=_REPORT, fairness_key=tenant_id)


def _last_or(usual: int, tenant_id: str) -> int:
    return _NOBODY if tenant_id == MIRROR_TENANT_ID else usual


TENANT_ID = SearchAttributeKey.for_keyword("TenantId")
REGION = SearchAttributeKey.for_keyword("Region")
LIFECYCLE_STATE = SearchAttributeKey.for_keyword("LifecycleState")
ROOT_KEY_MODE = SearchAttributeKey.for_keyword("RootKeyMode")
PROMISE_BROKEN = SearchAttributeKey.for_bool("PromiseBroken")

ALL = (TENANT_ID, REGION, LIFECYCLE_STATE, ROOT_KEY_MODE, PROMISE_BROKEN)


def of_tenant(tenant_id: str, region: str) -> TypedSearchAttributes:
    """Return what a workflow of one tenant is found by."""
    return TypedSearchAttributes([SearchAttributePair(TENANT_ID, tenant_id), SearchAttributePair(REGION, region)])
