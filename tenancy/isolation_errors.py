"""What can be wrong with isolation and with the attacks on it; part of the vocabulary of `errors`."""

from openkcm.errors import OpenKcmError, PlatformError


class ControlFailed(PlatformError):
    """The attacker could not do to its own things what it tries on the other's, so nothing was proven."""

    code = "boundary_control_failed"
    hint = "the check is tried again; if it stays, compare policies and root certificate with a healthy server"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the control of a boundary check failed: {problem}")


class TenantKeyShared(OpenKcmError):
    """Another key has this one's fingerprint: both have the same material (MTCI U2).

    Never tried again: it would be found again, and nothing may be encrypted under it meanwhile.
    """

    code = "tenant_key_shared"
    message = "the tenant key has the fingerprint of another key: its material is not the tenant's alone"
    hint = "stop enabling tenants and follow docs/runbook.md#a-tenant-key-is-shared-or-replaced"


class TenantKeyReplaced(OpenKcmError):
    """Under the key's name and version lies another key than the one that was put on record."""

    code = "tenant_key_replaced"
    message = "the tenant key is not the one whose fingerprint is on record"
    hint = "find who replaced the key in the key server's audit log: docs/runbook.md#a-tenant-key-is-shared-or-replaced"
