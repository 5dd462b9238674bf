"""What double entry can say of a tenant's audit stream; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError, PlatformError


class AuditDiffers(PlatformError):
    code = "audit_differs"

    def __init__(self, differences: int) -> None:
        super().__init__(
            f"the key server's audit log and ours differ: {differences} differences",
            "see docs/double-entry.md#what-is-always-told for what each means and what to do first",
        )


class VaultLogUnknown(CallerError):
    code = "vault_log_unknown"
    message = "nobody has said where the key server's audit log can be read"
    hint = "name it with --vault-log, or set vault_audit_log"
