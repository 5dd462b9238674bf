from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose


def context_of(tenant_id: str) -> EncryptionContext:
    return EncryptionContext(tenant_id, ids.l2_key(tenant_id), "orders", Purpose.VERIFY, "object-1")
