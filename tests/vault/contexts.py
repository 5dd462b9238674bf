from core import names as ids
from core.keys.encryption_context import Context, Purpose


def context_of(tenant_id: str) -> Context:
    return Context(tenant_id, ids.l2_key(tenant_id), "orders", Purpose.VERIFY, "object-1")
