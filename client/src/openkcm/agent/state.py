"""State that the agent stores between two starts, in a separate file beside the service's files.

Its only secret is the ticket of a pending enrolment, which can read that one result. Of an attestation it stores only
the digest, so that a used one is never sent again.
"""

import secrets

import structlog
from pydantic import BaseModel, ValidationError

from openkcm.credentials.store import CredentialStore

FILE = "agent.json"
_MAX_SPENT = 20

log = structlog.get_logger()


class PendingEnrolment(BaseModel):
    """A pending enrolment. Its request is stored, so that a retry after a lost response is the same enrolment.

    `authority` is the root CA that was trusted at its start.
    """

    proof: str
    csr: str
    status_url: str = ""
    ticket: str = ""
    authority: str = ""
    tenant_id: str | None = None


class AgentState(BaseModel):
    """`reported` is the serial of the certificate the service was last notified of; `name` identifies the instance."""

    name: str = ""
    https: str = ""
    kmip: str = ""
    reported: str = ""
    spent: tuple[str, ...] = ()
    pending: PendingEnrolment | None = None

    def spend(self, digest: str) -> None:
        self.spent = (*self.spent, digest)[-_MAX_SPENT:]


def load_state(folder: CredentialStore) -> AgentState:
    """Return the stored state; a damaged file gives an empty one, which costs one check and one reload."""
    text = folder.read(FILE)
    state = AgentState()
    if text is not None:
        try:
            state = AgentState.model_validate_json(text)
        except ValidationError:
            log.warning("agent state cannot be read", file=FILE)
    if not state.name:
        state.name = secrets.token_hex(4)
    return state


def save_state(folder: CredentialStore, state: AgentState) -> None:
    """Store the state; raises FolderRefused."""
    folder.write_changed({FILE: state.model_dump_json(indent=2) + "\n"})
