"""Service kinds that client and server agree on."""

from datetime import datetime, timedelta
from enum import StrEnum

HEARTBEAT_SECONDS = 30
"""How often an agent is asked to say that it is there."""
_SILENCE = timedelta(seconds=4 * HEARTBEAT_SECONDS)
OTHER_PLACES = "(others)"
"""Where uses are counted whose own place is one too many."""


class AgentProblem(StrEnum):
    """What keeps an agent from its work, worst first: it tells one."""

    CERTIFICATE_LAPSED = "certificate_lapsed"
    CERTIFICATE_REVOKED = "certificate_revoked"
    PROOF_REFUSED = "proof_refused"
    AUTHORITY_REFUSED = "authority_refused"
    FOLDER_UNUSABLE = "folder_unusable"
    NOT_RENEWED = "not_renewed"
    RELOAD_FAILED = "reload_failed"
    CLOCK_WRONG = "clock_wrong"


def is_connected(last_contact_at: datetime, now: datetime) -> bool:
    """Whether an agent counts as connected: it missed at most three heartbeats in a row."""
    return now - last_contact_at <= _SILENCE


class ServiceKind(StrEnum):
    MONGODB = "mongodb"
    POSTGRESQL = "postgresql"
    MICROSERVICE = "microservice"
