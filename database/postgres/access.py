"""The signed context of a transaction and the names of the database roles.

SQL can name any tenant but cannot sign a context, so hostile SQL in a transaction is restricted to that transaction's
tenant. A context is valid in one transaction of one session, so that no other transaction can replay it. The function
`okcm.ctx_ok` verifies the context. Each process has a separate role; no process logs in as the owner.
"""

import hmac
from collections.abc import Mapping
from types import MappingProxyType

from psycopg.conninfo import conninfo_to_dict

from database.postgres.deadline import STATEMENT_SECONDS

PLATFORM = "*"
"""The signed id of a query that spans tenants; no tenant can have this id."""

CURRENT_TRANSACTION = "select pg_backend_pid() || '|' || extract(epoch from transaction_timestamp())"
"""The query for the id of the current transaction, as `okcm.ctx_ok` forms it; SQL cannot change either part."""

LONGEST_NAME = 63
"""PostgreSQL truncates a longer `application_name` silently, at the end that distinguishes operations."""

_BLOCK = 64  # block size of SHA-256, bytes (RFC 2104)


def sign(key: bytes, tenant_id: str, transaction: str) -> str:
    """Return the context of `tenant_id` for one transaction: an HMAC, hex.

    Args:
        key: the context key of the role.
        tenant_id: a tenant, or PLATFORM.
        transaction: the result of CURRENT_TRANSACTION.
    """
    return hmac.digest(key, f"{tenant_id}|{transaction}".encode(), "sha256").hex()


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer HMAC block for `key`, 32 to 64 bytes; the database stores them in this form."""
    if not 32 <= len(key) <= _BLOCK:
        raise ValueError("context key must have 32 to 64 bytes")
    block = key.ljust(_BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


SESSION_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        # Excludes okcm: every name is qualified, so no other object can capture it.
        "search_path": "pg_catalog",
        "TimeZone": "UTC",
        "jit": "off",
        # They end stuck calls. In the units in which PostgreSQL shows them.
        "statement_timeout": f"{STATEMENT_SECONDS}s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "1min",
    }
)
"""The settings of each session of a process: requested at the login, and defaults of the role.

Both, because a pooler may ignore the first, and a session can change the second.
"""

OWNER = "okcm_owner"
MIGRATOR = "migrator"
PROCESSES = ("worker", "marketplace", "operator", "crypto", "dashboard")


def login(role: str) -> str:
    """Return the PostgreSQL role of a process or of the migrator."""
    return f"okcm_{role}"


SESSION_ROLES = tuple(login(role) for role in PROCESSES)


def encrypted_address(url: str) -> tuple[str, int] | None:
    """Return host and port of a database URL, the first of several; None if it does not require TLS."""
    place = conninfo_to_dict(url)
    if place.get("sslmode") not in {"require", "verify-ca", "verify-full"}:
        return None
    host, port = (str(place.get(name) or default) for name, default in (("host", "localhost"), ("port", "5432")))
    return host.partition(",")[0], int(port.partition(",")[0])
