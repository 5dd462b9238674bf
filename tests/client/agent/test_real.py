"""The agent with a real crypto service, database and key server, in a folder of `openkcmctl service connect`."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from database.services.agents import HeartbeatRow
from openkcm.agent.agent import Agent
from openkcm.agent.attestation import InlineAttestor
from openkcm.agent.config import AgentConfig
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.schedule import ServerClock
from openkcm.agent.signals import SignalWaiter
from openkcm.contract.protected_fields import Backfill
from openkcm.contract.services import AgentProblem, ServiceKind, is_connected
from openkcm.credentials.store import CredentialStore
from openkcm.sdk.client import Client
from tests.client.agent.conftest import RecordingReload, assert_whole
from tests.concurrency import wait_until
from tests.contracts.authorities import p256
from tests.crypto_service.core.world import Home, World
from tests.crypto_service.running.conftest import service, world
from tests.crypto_service.running.process import Service
from tests.database.fixtures import Field, Server, clone

__all__ = ["service", "world"]


@pytest.fixture
def field(server: Server, template: str) -> Iterator[Field]:
    """The database of the crypto service, unrelated to the agent's fixture `field`."""
    with clone(server, template) as one:
        yield one


class Machine:
    """A service's machine with a folder of `openkcmctl service connect`, and an agent for it."""

    def __init__(self, home: Home, folder: Path, service: Service) -> None:
        self.home, self.service, self.key = home, service, p256()
        home.connect("orders")
        self.folder = home.folder(folder / "orders", "orders", self.key, service.https)
        self.reloads, self.signals, self._generation = RecordingReload(), SignalWaiter(), 2

    def agent(self) -> Agent:
        clock = ServerClock()
        folder, control = CredentialStore(self.folder, None, "orders"), EnrolmentClient("http://127.0.0.1:1", clock)
        job = AgentConfig("orders", ServiceKind.MICROSERVICE, "0.1.0", str(self.folder), "db-1")
        return Agent(job, folder, control, InlineAttestor(""), reload=self.reloads, clock=clock, signals=self.signals)

    def renew(self, life: timedelta = timedelta(hours=2)) -> str:
        self._generation += 1
        return self.home.issue("orders", self._generation, self.key, life)

    @property
    def presented(self) -> str:
        return (self.folder / "client.pem").read_text()

    def agents(self) -> list[HeartbeatRow]:
        with self.home.world.field.open("dashboard", max_size=1).tenant_tx(self.home.tenant_id) as tx:
            return list(tx.agents.all())


@pytest.fixture
def machine(world: World, service: Service, tmp_path: Path) -> Machine:
    service.start()
    service.wait_ready()
    return Machine(world.tenant(), tmp_path, service)


def test_agent_renews_reports_recovers_and_detects_revocation(machine: Machine) -> None:
    agent = machine.agent()
    renewed = machine.renew()
    agent.turn()
    assert machine.presented.startswith(renewed.strip())
    assert machine.reloads.times == 1
    assert_whole(machine.folder)

    wait_until(lambda: bool(machine.agents()))
    [seen] = machine.agents()
    assert (seen.service, seen.agent_version, seen.problem) == ("orders", "0.1.0", None)
    assert is_connected(seen.last_contact_at, seen.last_contact_at)

    # A heartbeat reports the new certificate: no check was due for an hour.
    again = machine.renew()
    agent._due.heartbeat = 0.0
    take_turns_until(agent, lambda: machine.presented.startswith(again.strip()))

    # The crypto service is killed and restarted; the agent recovers automatically.
    machine.service.kill()
    agent._due.heartbeat = 0.0
    agent.turn()
    latest = machine.renew()
    machine.service.start()
    machine.service.wait_ready()
    take_turns_until(agent, lambda: machine.presented.startswith(latest.strip()))

    machine.home.disconnect("orders")
    take_turns_until(agent, lambda: agent.health.worst is AgentProblem.CERTIFICATE_REVOKED)
    assert_whole(machine.folder)
    agent.close()


def take_turns_until(agent: Agent, condition: Callable[[], bool]) -> None:
    """Take turns without the wait between heartbeats."""

    def take_turn() -> bool:
        agent.turn()
        agent._due.heartbeat = 0.0
        agent._last_check = min(agent._last_check, agent._clock.elapsed() - 5)
        return condition()

    wait_until(take_turn)


def test_usage_is_summed_and_survives_the_end_of_the_process(machine: Machine) -> None:
    use = {"operations": 10, "bytes": 320, "microseconds": 7, "requests": 4, "request_microseconds": 900}
    report = {"instance": "app-1", "agent_version": "0.1.0", "not_after": "2027-01-01T00:00:00Z"}
    with Client.from_folder(machine.folder) as kcm:
        for _ in range(3):
            answer = kcm.heartbeat(report | {"uses": [use | {"place": "public.customers.ssn"}]})
            kcm.heartbeat(report | {"backfills": [{"place": "t.c", "done": 7, "remaining": 3, "state": "running"}]})
    assert answer == {"heartbeat_seconds": 30, "certificate_newer": False}
    assert machine.service.terminate() == 0
    with machine.home.world.field.open("dashboard", max_size=1).tenant_tx(machine.home.tenant_id) as tx:
        [contact] = tx.agents.all()
        day = contact.last_contact_at.date()
        [row] = tx.agents.uses(day, day)
        [backfill] = tx.agents.backfills()
    assert (backfill.place, backfill.done, backfill.remaining, backfill.state) == ("t.c", 7, 3, Backfill.RUNNING)
    assert (row.place, row.operations, row.request_microseconds) == ("public.customers.ssn", 30, 2700)
