"""What can be wrong with a tenant key that is to be one tenant's alone; part of the vocabulary of `errors`.

Neither is ever tried again: the same key would be found again, and nothing may be encrypted under it meanwhile.
"""

from tenancy.errors import OpenKcmError


class TenantKeyShared(OpenKcmError):
    """Another key has this one's fingerprint: both have the same material (MTCI U2)."""

    code = "tenant_key_shared"
    message = "the tenant key has the fingerprint of another key: its material is not the tenant's alone"
    hint = "stop enabling tenants and follow docs/runbook.md; a key restored or copied under a second name does this"


class TenantKeyReplaced(OpenKcmError):
    """Under the key's name and version lies another key than the one that was put on record."""

    code = "tenant_key_replaced"
    message = "the tenant key is not the one whose fingerprint is on record"
    hint = "somebody deleted and made, or restored, the key by hand: see the key server's audit log and docs/runbook.md"
