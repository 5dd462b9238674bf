"""The database's roles by name. Each process has one of its own; nothing logs in as the owner."""

OWNER = "okcm_owner"
MIGRATOR = "migrator"
PROCESSES = ("worker", "marketplace", "operator", "crypto", "dashboard")


def login(role: str) -> str:
    """Return the PostgreSQL role of a process or of the migrator."""
    return f"okcm_{role}"


SESSION_ROLES = tuple(login(role) for role in PROCESSES)
