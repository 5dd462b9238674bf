"""Tenants of one test module each, so that modules run in any order and on any worker."""

from uuid import uuid4

from tests.stories.stack import Stack


def new_tenant(stack: Stack, name: str, organization: str = "Story Corporation") -> str:
    """Enable a tenant whose id no other test uses, wait until it is active, and return the id."""
    tenant_id = f"{name}-{uuid4().hex[:8]}"
    stack.enable(tenant_id, organization)
    return tenant_id
