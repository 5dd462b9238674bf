"""Service kinds that client and server agree on."""

from datetime import datetime, timedelta
from enum import StrEnum

HEARTBEAT_SECONDS = 30
"""Default interval of an agent's heartbeats."""
_SILENCE = timedelta(seconds=4 * HEARTBEAT_SECONDS)
OTHER_PLACES = "(others)"
"""The row that counts the uses of all places beyond the limit."""


class AgentProblem(StrEnum):
    """What prevents an agent from its work, worst first; a heartbeat reports one."""

    CERTIFICATE_LAPSED = "certificate_expired"
    CERTIFICATE_REVOKED = "certificate_revoked"
    PROOF_REFUSED = "attestation_rejected"
    AUTHORITY_REFUSED = "ca_fingerprint_mismatch"
    FOLDER_UNUSABLE = "folder_unusable"
    NOT_RENEWED = "not_renewed"
    RELOAD_FAILED = "reload_failed"
    CLOCK_WRONG = "clock_wrong"


def is_connected(last_contact_at: datetime, now: datetime) -> bool:
    """Return whether an agent counts as connected: it missed at most three consecutive heartbeats."""
    return now - last_contact_at <= _SILENCE


class ServiceKind(StrEnum):
    MONGODB = "mongodb"
    POSTGRESQL = "postgresql"
    MICROSERVICE = "microservice"
