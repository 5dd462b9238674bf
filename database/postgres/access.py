"""The signed context of a transaction and the names of the database roles.

SQL can name any tenant but cannot sign a context, so hostile SQL in a transaction is restricted to that transaction's
tenant. The function `okcm.ctx_ok` verifies the context. Each process has a separate role; no process logs in as the
owner.
"""

import hmac

PLATFORM = "*"
"""The signed id of a query that spans tenants; no tenant can have this id."""

LIFETIME_SECONDS = 300
"""Longer than any transaction plus the clock skew between a process and the database."""

LONGEST_NAME = 63
"""PostgreSQL truncates a longer `application_name` silently, at the end that distinguishes operations."""

_BLOCK = 64  # block size of SHA-256, bytes (RFC 2104)


def sign(key: bytes, tenant_id: str, expires_at: int) -> str:
    """Return `tenant|expiry|mac`; `expires_at` is in seconds since the epoch."""
    claim = f"{tenant_id}|{expires_at}"
    return f"{claim}|{hmac.digest(key, claim.encode(), 'sha256').hex()}"


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer HMAC block for `key`, 32 to 64 bytes; the database stores them in this form."""
    if not 32 <= len(key) <= _BLOCK:
        raise ValueError("context key must have 32 to 64 bytes")
    block = key.ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


OWNER = "okcm_owner"
MIGRATOR = "migrator"
PROCESSES = ("worker", "marketplace", "operator", "crypto", "dashboard")


def login(role: str) -> str:
    """Return the PostgreSQL role of a process or of the migrator."""
    return f"okcm_{role}"


SESSION_ROLES = tuple(login(role) for role in PROCESSES)
