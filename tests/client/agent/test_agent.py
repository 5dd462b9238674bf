"""The agent enrols, renews in time despite failures, reloads the service, and reports its state."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from core.tenants.lifecycle import State
from openkcm.agent.errors import NotInOrder, ProofMissing
from openkcm.contract.services import AgentProblem, ServiceKind
from openkcm.credentials.store import CredentialStore
from openkcm.sdk.client import Client
from tests.client.agent.conftest import Field, RecordingReload, assert_whole
from tests.client.agent.control import SERVICE, TENANT, a_join_token, as_leaf, certify
from tests.client.agent.full import no_room
from tests.crypto_service.authority import pem, tenant_authority

pytestmark = pytest.mark.integration  # the crypto service and the control endpoint listen on loopback
UNREACHABLE = "https://localhost:1"


def renew_by_client(field: Field) -> None:
    """Renew the certificate in the folder without the agent, as another program does."""
    with Client.from_folder(field.folder) as kcm:
        assert kcm.renew_certificate()


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        (ServiceKind.MICROSERVICE, {"client.toml"}),
        (ServiceKind.POSTGRESQL, {"client.toml", "pg_tde.sql"}),
        (ServiceKind.MONGODB, {"client.toml", "mongodb.pem", "mongod.yaml", "csfle.json"}),
    ],
)
def test_enrolment_with_a_join_token_creates_a_usable_folder(field: Field, kind, files):
    field.enrolled(kind=kind)
    assert {file.name for file in field.folder.iterdir()} == {
        *("client.key", "client.pem", "ca.pem", "agent.json"),
        *files,
    }
    assert_whole(field.folder)
    with Client.from_folder(field.folder) as kcm:
        assert kcm.decrypt(kcm.encrypt(b"card", "orders/1"), "orders/1") == b"card"
    assert field.reloads.times == 1


def test_heartbeat_reports_the_agent_and_returns_notice_of_a_new_certificate(field: Field):
    agent = field.enrolled()
    agent.turn()
    [(caller, heartbeat), *_] = field.stage.heartbeats.reported
    assert (caller.tenant_id, caller.service) == (TENANT, SERVICE)
    assert heartbeat.instance.startswith("db-1-example-")
    assert (heartbeat.agent_version, heartbeat.problem, heartbeat.uses) == ("0.1.0", None, [])
    assert heartbeat.not_after == field.leaf.not_valid_after_utc
    renewed = field.renew()
    field.go_on(agent, lambda: field.leaf == renewed, turns=4)  # the response to a heartbeat reports it


def test_renewal_is_checked_from_two_thirds_of_the_lifetime(field: Field):
    agent = field.enrolled()
    field.stage.certificates.asked.clear()
    first = field.leaf
    agent.turn()
    asked = len(field.stage.certificates.asked)
    field.time.passes(47 * 3600)
    agent.turn()
    assert len(field.stage.certificates.asked) <= asked + 1
    renewed = field.renew(life=timedelta(hours=200))
    field.go_on(agent, lambda: field.leaf == renewed)
    assert field.leaf.public_key() == first.public_key()
    assert field.reloads.times == 2


def test_renewal_is_retried_at_a_bounded_rate_in_the_last_third(field: Field):
    field.control.life = timedelta(hours=3)
    agent = field.enrolled()
    field.stage.certificates.asked.clear()
    began = field.time.elapsed()
    field.go_on(agent, lambda: field.time.elapsed() - began > 2.9 * 3600, turns=1000)
    assert 40 <= len(field.stage.certificates.asked) <= 80
    assert agent.health.worst is AgentProblem.NOT_RENEWED
    renewed = field.renew(life=timedelta(hours=200))
    field.go_on(agent, lambda: field.leaf == renewed)
    assert agent.health.worst is None


def test_agent_renews_after_a_network_outage_before_the_certificate_expires(field: Field):
    field.control.life = timedelta(hours=3)
    agent = field.enrolled()
    https = field.control.https
    field.control.stop()
    agent._connection.use(UNREACHABLE)
    began = field.time.elapsed()
    field.go_on(agent, lambda: field.time.elapsed() - began > 2.5 * 3600, turns=1000)
    assert_whole(field.folder)
    agent._connection.use(https)
    field.control.start()
    renewed = field.renew(life=timedelta(hours=200))
    field.go_on(agent, lambda: field.leaf == renewed, turns=40)


@pytest.mark.parametrize("hours", [-30, 30])
def test_wrong_clock_is_reported_and_does_not_change_the_renewal_schedule(field: Field, hours: int):
    field.time.wrong_by = timedelta(hours=hours)
    agent = field.enrolled()
    assert agent.health.worst is AgentProblem.CLOCK_WRONG
    field.stage.certificates.asked.clear()
    field.take_turns(agent, 30)
    assert len(field.stage.certificates.asked) <= 1
    renewed = field.renew(life=timedelta(hours=200))
    field.go_on(agent, lambda: field.leaf == renewed, turns=10)
    field.time.wrong_by = timedelta()
    field.go_on(agent, lambda: agent.health.worst is None, turns=10)


def test_clock_jump_during_an_outage_does_not_expire_the_certificate(field: Field):
    agent = field.enrolled()
    agent._connection.use(UNREACHABLE)
    field.control.stop()
    field.stage.certificates.asked.clear()
    field.time.wrong_by = timedelta(hours=100)
    field.take_turns(agent, 20)
    assert AgentProblem.CERTIFICATE_LAPSED is not agent.health.worst
    field.control.start()


def test_revoked_certificate_is_reported_and_replaced_with_a_new_token(field: Field):
    agent = field.enrolled()
    first = field.leaf
    field.stage.on_loop(lambda: field.stage.core.revoke(f"{first.serial_number:x}"))
    field.go_on(agent, lambda: agent.health.worst is AgentProblem.CERTIFICATE_REVOKED)
    sent = len(field.control.posts)
    field.take_turns(agent, 10)
    assert len(field.control.posts) == sent, "a used token is not sent again"
    field.prove()
    field.go_on(agent, lambda: field.leaf != first, turns=20)
    field.go_on(agent, lambda: agent.health.worst is None, turns=5)
    assert field.leaf.public_key() == first.public_key()


def test_once_replaces_a_revoked_or_expired_certificate_with_a_new_token(field: Field):
    field.enrolled()
    first = field.leaf
    field.stage.on_loop(lambda: field.stage.core.revoke(f"{first.serial_number:x}"))
    field.control.polls = 1
    field.prove()
    field.agent().once(10)
    second = field.leaf
    assert second != first
    field.time.passes(73 * 3600)
    field.control.now = field.time.real
    field.prove()
    field.agent().once(10)
    assert field.leaf not in {first, second}


def test_once_reports_a_revoked_certificate_without_an_unused_token(field: Field):
    field.enrolled()
    first = field.leaf
    field.stage.on_loop(lambda: field.stage.core.revoke(f"{first.serial_number:x}"))
    with pytest.raises(NotInOrder, match="certificate_revoked"):
        field.agent().once(10)
    field.prove(a_join_token())
    with pytest.raises(NotInOrder, match="certificate_revoked"):
        field.agent().once(10)


def test_expired_certificate_is_replaced_with_a_new_token(field: Field):
    agent = field.enrolled()
    first = field.leaf
    agent._connection.use(UNREACHABLE)
    field.time.passes(73 * 3600)
    agent.turn()
    assert agent.health.worst is AgentProblem.CERTIFICATE_LAPSED
    field.control.now = field.time.real
    field.prove()
    field.go_on(agent, lambda: field.leaf != first, turns=30)
    assert_whole(field.folder)


def test_agent_waits_while_its_tenant_is_locked(field: Field):
    agent = field.enrolled()
    first = field.leaf
    field.stage.on_loop(lambda: field.stage.core.move(TENANT, State.LOCKED))
    field.prove()
    field.take_turns(agent, 20)
    assert len(field.control.posts) == 1, "a locked tenant does not cause an enrolment"
    field.stage.on_loop(lambda: field.stage.core.move(TENANT, State.ACTIVE))
    renewed = field.renew()
    field.go_on(agent, lambda: field.leaf == renewed)
    assert first != renewed


def test_failed_reload_is_reported_and_retried_after_a_restart(field: Field):
    field.reloads = RecordingReload(fails=3)
    agent = field.agent()
    field.prove()
    with pytest.raises(NotInOrder, match="reload_failed"):
        agent.once(10)
    agent = field.agent()  # a restart: the state still contains the pending reload
    agent.turn()
    agent.turn()
    field.time.passes(31)
    field.reloads.fails = 1
    agent.turn()
    assert field.stage.heartbeats.reported[-1][1].problem == "reload_failed"
    field.go_on(agent, lambda: field.reloads.times == 1)
    assert agent.health.worst is None
    field.take_turns(agent, 5)
    assert field.reloads.times == 1


def test_certificate_written_by_another_program_reloads_the_service(field: Field):
    agent = field.enrolled()
    renewed = field.renew()
    renew_by_client(field)
    field.go_on(agent, lambda: field.reloads.times == 2, turns=5)
    assert field.leaf == renewed


class PairReload(RecordingReload):
    """Records the certificate in MongoDB's file at each notification."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves: list[x509.Certificate] = []

    def notify(self, folder: Path) -> None:
        super().notify(folder)
        self.leaves.append(x509.load_pem_x509_certificate((folder / "mongodb.pem").read_bytes()))


def write_certificate(field: Field, leaf: x509.Certificate) -> None:
    """Replace the certificate only, as clients of earlier versions do."""
    folder = CredentialStore(field.folder, None, SERVICE)
    folder.write({"client.pem": pem(leaf) + tenant_authority(TENANT).pem})


def test_mongodb_file_follows_a_certificate_of_another_program_before_the_reload(field: Field):
    field.reloads = PairReload()
    agent = field.enrolled(kind=ServiceKind.MONGODB)
    first, renewed = field.leaf, field.renew()
    write_certificate(field, renewed)
    agent.turn()
    assert field.reloads.leaves == [first, renewed]
    assert (field.folder / "mongodb.pem").read_text() == "".join(
        (field.folder / name).read_text() for name in ("client.pem", "client.key")
    )
    assert_whole(field.folder)


@pytest.mark.parametrize("content", [None, "", "of another service"])
def test_damaged_mongodb_file_is_written_again(field: Field, content: str | None):
    agent = field.enrolled(kind=ServiceKind.MONGODB)
    file = field.folder / "mongodb.pem"
    right = file.read_text()
    file.unlink()
    if content is not None:
        file.write_text(content)
    agent.turn()
    assert file.read_text() == right
    assert_whole(field.folder)


def test_mongodb_file_that_cannot_be_written_is_a_problem_until_it_is(field: Field):
    agent = field.enrolled(kind=ServiceKind.MONGODB)
    write_certificate(field, field.renew())
    with capture_logs(), no_room():
        for _ in range(3):
            agent.turn()
            assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
    assert field.reloads.times == 1
    agent.turn()
    assert agent.health.worst is None
    assert field.reloads.times == 2
    assert_whole(field.folder)
    assert (field.folder / "mongodb.pem").read_text().startswith(pem(field.leaf))


def test_agent_renews_in_a_folder_of_service_connect(field: Field):
    field.folder = field.stage.folder
    renewed = field.renew()
    agent = field.agent()
    agent.once(10)
    assert field.leaf == renewed
    assert field.control.posts == []
    assert_whole(field.folder)


def test_missing_address_is_discovered_at_the_control_endpoint(field: Field):
    field.folder = field.stage.folder
    (field.folder / "client.toml").unlink()
    renewed = field.renew()
    field.agent(kind=ServiceKind.POSTGRESQL).once(10)
    assert field.leaf == renewed
    assert (field.folder / "pg_tde.sql").exists()


def test_interrupted_write_is_completed(field: Field):
    field.enrolled(kind=ServiceKind.MONGODB)
    renewed = field.renew()
    (field.folder / "mongodb.pem").write_text("")
    field.agent(kind=ServiceKind.MONGODB).once(10)
    assert field.leaf == renewed
    assert_whole(field.folder)


def test_certificate_for_another_key_or_service_is_never_written(field: Field):
    agent = field.enrolled()
    first = field.leaf
    for_another_key = certify(ec.generate_private_key(ec.SECP256R1()).public_key())
    for_another_service = certify(first.public_key(), service="billing")
    for wrong in (for_another_key, for_another_service):
        field.stage.on_loop(lambda leaf=wrong: field.stage.core.newest.update({(TENANT, SERVICE): as_leaf(leaf)}))
        field.take_turns(agent, 5)
        assert field.leaf == first


def test_once_without_token_and_certificate_raises_attestation_missing(field: Field):
    with pytest.raises(ProofMissing, match="no attestation"):
        field.agent().once(5)
    assert field.control.asked == []


def test_state_is_saved_once_the_disk_has_space_again(field: Field):
    agent = field.enrolled()
    renewed = field.renew()
    renew_by_client(field)
    with capture_logs(), no_room():
        agent.turn()
    assert agent.health.worst is AgentProblem.FOLDER_UNUSABLE
    agent.turn()
    assert agent.health.worst is None
    field.agent().once(10)
    assert field.reloads.times == 2
    assert field.leaf == renewed


def test_problem_is_resolved_when_another_program_renews_the_certificate(field: Field):
    agent = field.enrolled()
    agent._connection.use(UNREACHABLE)
    field.time.passes(60 * 3600)
    agent.turn()
    assert agent.health.worst is AgentProblem.NOT_RENEWED
    field.renew(life=timedelta(hours=200))
    renew_by_client(field)
    agent.turn()
    assert agent.health.worst is None
