"""Scheduled tasks that work on tenants in the order of their last attempt."""

from enum import StrEnum, unique


@unique
class ScheduledTask(StrEnum):
    """The tasks whose last attempt the row of each tenant records (`okcm.tenant.scheduled_attempts`)."""

    AUDIT_ARCHIVE = "audit-archive"
    CA_RETIREMENT = "ca-retirement"
    CA_ROTATION = "ca-rotation"
    EXPIRY = "expiry"
    REVOCATION_LISTS = "revocation-lists"
    ROOT_KEY_VERSIONS = "root-key-versions"
    ROTATIONS = "rotations"
    ROW_RETENTION = "row-retention"
    STALLED_ROTATIONS = "stalled-rotations"
    UNUSED_CREDENTIALS = "unused-credentials"
