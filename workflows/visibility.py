"""What operators can search for and read in the Temporal UI. Ids only: search attributes are never encrypted."""

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

TENANT_ID = SearchAttributeKey.for_keyword("TenantId")
REGION = SearchAttributeKey.for_keyword("Region")
LIFECYCLE_STATE = SearchAttributeKey.for_keyword("LifecycleState")
ROOT_KEY_MODE = SearchAttributeKey.for_keyword("RootKeyMode")
PROMISE_BROKEN = SearchAttributeKey.for_bool("PromiseBroken")

ALL = (TENANT_ID, REGION, LIFECYCLE_STATE, ROOT_KEY_MODE, PROMISE_BROKEN)


def of_tenant(tenant_id: str, region: str) -> TypedSearchAttributes:
    """Return what a workflow of one tenant is found by."""
    return TypedSearchAttributes([SearchAttributePair(TENANT_ID, tenant_id), SearchAttributePair(REGION, region)])
