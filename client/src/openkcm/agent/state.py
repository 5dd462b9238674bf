"""What the agent remembers from one start to the next, in a file of its own beside the service's.

Beside the ticket of an enrolment that is under way, which reads that one result, there is no secret in it: of a proof
only its digest is kept, by which one that was used is never sent again.
"""

import secrets

import structlog
from pydantic import BaseModel, ValidationError

from openkcm.credentials.store import CredentialStore

FILE = "agent.json"
_SPENT = 20

log = structlog.get_logger()


class PendingEnrolment(BaseModel):
    """An enrolment under way. The request is kept, so that asking again after a lost answer is the same enrolment.

    `authority` is the root that was trusted when it was begun, and may issue.
    """

    proof: str
    csr: str
    status_url: str = ""
    ticket: str = ""
    authority: str = ""
    tenant_id: str | None = None


class AgentState(BaseModel):
    """`told` is the serial of the certificate that the service was last told of, `name` a part of the instance's."""

    name: str = ""
    https: str = ""
    kmip: str = ""
    told: str = ""
    spent: tuple[str, ...] = ()
    pending: PendingEnrolment | None = None

    def spend(self, digest: str) -> None:
        self.spent = (*self.spent, digest)[-_SPENT:]


def remembered(folder: CredentialStore) -> AgentState:
    """Return what the folder's agent knew; of a file that is damaged nothing, which costs a look and a reload."""
    text = folder.read(FILE)
    memory = AgentState()
    if text is not None:
        try:
            memory = AgentState.model_validate_json(text)
        except ValidationError:
            log.warning("what the agent remembered cannot be read", file=FILE)
    if not memory.name:
        memory.name = secrets.token_hex(4)
    return memory


def remember(folder: CredentialStore, memory: AgentState) -> None:
    """Keep it; raises FolderRefused."""
    folder.write_changed({FILE: memory.model_dump_json(indent=2) + "\n"})
