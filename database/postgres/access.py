"""The signed context of a transaction: the counterpart of `okcm.ctx_ok` in migrations/0002_context.sql.

SQL can name any tenant but cannot sign for one, so hostile SQL inside a transaction stays in that transaction's tenant.

The database's roles by name. Each process has one of its own; nothing logs in as the owner.
"""

import hmac

PLATFORM = "*"
"""What a question that spans tenants is signed for; no tenant can have this id."""

LIFETIME_SECONDS = 300
"""Longer than any transaction plus the clock difference between a process and the database."""

LONGEST_NAME = 63
"""PostgreSQL cuts a longer `application_name` without a word, at its end, which tells one operation from another."""

_BLOCK = 64  # SHA-256's block, bytes (RFC 2104)


def sign(key: bytes, tenant_id: str, expires_at: int) -> str:
    """Return `tenant|expiry|mac`; `expires_at` is in seconds since the epoch."""
    claim = f"{tenant_id}|{expires_at}"
    return f"{claim}|{hmac.digest(key, claim.encode(), 'sha256').hex()}"


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer block of HMAC for `key`, 32 to 64 bytes; this is how the database keeps it."""
    if not 32 <= len(key) <= _BLOCK:
        raise ValueError("a context key has 32 to 64 bytes")
    block = key.ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


OWNER = "okcm_owner"
MIGRATOR = "migrator"
PROCESSES = ("worker", "marketplace", "operator", "crypto", "dashboard")


def login(role: str) -> str:
    """Return the PostgreSQL role of a process or of the migrator."""
    return f"okcm_{role}"


SESSION_ROLES = tuple(login(role) for role in PROCESSES)
