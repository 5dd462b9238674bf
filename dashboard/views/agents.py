"""What the page Services says of the agents beside a service; all but when they were heard of is their own word."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from dashboard.views.words import code, count, listed, moment
from database.services.agents import ContactRow
from openkcm.contract.services import AgentProblem, is_connected

_PROBLEMS: Mapping[str, str] = MappingProxyType(
    {
        AgentProblem.CERTIFICATE_LAPSED: "its certificate has ended",
        AgentProblem.CERTIFICATE_REVOKED: "its certificate is revoked",
        AgentProblem.PROOF_REFUSED: "its proof was refused; make a new join token",
        AgentProblem.AUTHORITY_REFUSED: "it does not trust the address it was given",
        AgentProblem.FOLDER_UNUSABLE: "it cannot write its folder; look for space and rights on its machine",
        AgentProblem.NOT_RENEWED: "it has not got the next certificate",
        AgentProblem.RELOAD_FAILED: "the service was not told of its new certificate",
        AgentProblem.CLOCK_WRONG: "the clock of its machine is wrong",
    }
)


def told(agents: Sequence[ContactRow], now: datetime) -> str:
    """Return how a service's agents are, empty where none was ever heard of; those heard of last come first."""
    if not agents:
        return ""
    connected = [one for one in agents if is_connected(one.last_contact_at, now)]
    newest = agents[0]
    if not connected:
        ends = moment(newest.certificate_not_after, now)
        return (
            f"Agent not connected: last heard of {moment(newest.last_contact_at, now)}; "
            f"the certificate it had ends {ends}"
        )
    versions = listed([code(one) for one in sorted({one.agent_version for one in connected})])
    who = "Agent connected" if len(connected) == 1 else f"{count(len(connected), 'agent')} connected"
    until = moment(min(one.certificate_not_after for one in connected), now)
    heard = moment(newest.last_contact_at, now)
    words = f"{who} (version {versions}), last heard of {heard}, certificate until {until}"
    # In the order of how bad they are.
    found = {one.problem for one in connected}
    problems = [words for problem, words in _PROBLEMS.items() if problem in found]
    return words + (f". Problem: {listed(problems)}" if problems else "")
