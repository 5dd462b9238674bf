"""An agent with controlled time and randomness, beside a real HTTPS server with mTLS and a control endpoint."""

import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from openkcm.agent.agent import Agent
from openkcm.agent.attestation import FileAttestor
from openkcm.agent.config import AgentConfig
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.errors import ReloadFailed
from openkcm.agent.reload import Reload
from openkcm.agent.schedule import ServerClock
from openkcm.agent.signals import SignalWaiter
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from tests.client.agent.control import SERVICE, TENANT, ControlServer, as_leaf, certify
from tests.crypto_service.https.stage import Stage


class Time:
    """The machine's clock, which may be wrong, and a monotonic clock; `passes` advances both."""

    def __init__(self) -> None:
        self.wrong_by = timedelta()
        self._passed = 0.0
        self._began = datetime.now(UTC)

    def passes(self, seconds: float) -> None:
        self._passed += seconds

    def real(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._passed)

    def local(self) -> datetime:
        return self.real() + self.wrong_by

    def elapsed(self) -> float:
        return (self.real() - self._began).total_seconds()


class SteppedServerClock(ServerClock):
    """A server clock that advances with the test's time."""

    def __init__(self, time: Time) -> None:
        super().__init__(time.local, time.elapsed)
        self._time = time

    def learn(self, date: str) -> None:
        moment = parsedate_to_datetime(date) + (self._time.real() - datetime.now(UTC))
        super().learn(format_datetime(moment, usegmt=True))


class RecordingReload(Reload):
    """Counts notifications of the service; the first `fails` of them fail."""

    def __init__(self, fails: int = 0) -> None:
        self.times, self.fails = 0, fails

    def notify(self, folder: Path) -> None:  # noqa: ARG002 - signature of the protocol
        if self.fails:
            self.fails -= 1
            raise ReloadFailed
        self.times += 1


class Field:
    """A service's machine, the crypto service and the control endpoint."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.stage, self.time, self.folder = stage, Time(), folder / "kcm"
        self.control = ControlServer(https=f"https://localhost:{stage.port}")
        self.control.on_issue = self.admit
        self.proof_file, self.reloads = folder / "proof", RecordingReload()
        self._agents: list[Agent] = []

    def agent(self, kind: ServiceKind = ServiceKind.MICROSERVICE, **more: Any) -> Agent:
        """Return a newly started agent, which opens the folder again."""
        clock = SteppedServerClock(self.time)
        folder = CredentialStore(self.folder, None, SERVICE)
        proofs = FileAttestor(self.proof_file)
        job = AgentConfig(SERVICE, kind, "0.1.0", str(self.folder), "db-1.example")
        control = EnrolmentClient(self.control.url, clock, more.pop("ca_file", None))
        parts = {"reload": self.reloads, "clock": clock, "signals": SignalWaiter(), "chance": lambda: 0.5} | more
        self._agents.append(Agent(job, folder, control, proofs, **parts))
        return self._agents[-1]

    def close(self) -> None:
        for agent in self._agents:
            agent.close()
        self.control.stop()

    def prove(self, text: str | None = None) -> None:
        """Write an attestation to the file that the agent reads."""
        self.proof_file.touch(mode=0o600)
        self.proof_file.write_text((text or self.control.token()) + "\n")

    def admit(self, leaf: x509.Certificate) -> None:
        """Record a certificate as the newest of its service."""
        self.stage.on_loop(lambda: self.stage.core.admit(as_leaf(leaf), TENANT, SERVICE))

    def renew(self, **how: Any) -> x509.Certificate:
        """Certify the same key again, as the platform does at two thirds of the lifetime."""
        leaf = certify(self.leaf.public_key(), **how)
        self.admit(leaf)
        return leaf

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / "client.pem").read_bytes())

    def enrolled(self, agent: Agent | None = None, **more: Any) -> Agent:
        """Return an agent after its enrolment."""
        agent = agent or self.agent(**more)
        self.prove()
        agent.once(10)
        return agent

    def take_turns(self, agent: Agent, turns: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Advance the time from turn to turn; return whether the condition became true."""
        for _ in range(turns):
            wait = agent.turn()
            if until():
                return True
            self.time.passes(max(wait, 0.001))
        return False

    def go_on(self, agent: Agent, until: Callable[[], bool], turns: int = 400) -> None:
        assert self.take_turns(agent, turns, until), "the condition did not become true"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path / "stage") as running:
        yield running


@pytest.fixture
def field(tmp_path: Path, stage: Stage) -> Iterator[Field]:
    made = Field(tmp_path, stage)
    yield made
    made.close()


def assert_whole(folder: Path) -> None:
    """Assert that files are private and complete, and that key and certificate match."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # a running agent renames its drafts
            assert stat.S_IMODE(file.lstat().st_mode) == 0o600, file
    key = folder / "client.key"
    if not (folder / "client.pem").exists():
        return
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    leaf = x509.load_pem_x509_certificate((folder / "client.pem").read_bytes())
    assert leaf.public_key() == private.public_key()
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "client.pem", key)
    if (folder / "mongodb.pem").exists():
        context.load_cert_chain(folder / "mongodb.pem")
