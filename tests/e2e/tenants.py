"""Tenants that no other test uses, so that modules run in any order and on any worker."""

from uuid import uuid4

from tests.e2e.stack import Stack

ORGANIZATION = "Story Corporation"


def new_tenant(stack: Stack, name: str, organization: str = ORGANIZATION) -> str:
    """Enable a tenant whose id no other test uses, wait until it is active, and return the id."""
    tenant_id = f"{name}-{uuid4().hex[:8]}"
    stack.enable(tenant_id, organization)
    return tenant_id
