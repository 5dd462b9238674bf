"""`openkcmctl service` with real servers; the command has no access to Vault and no payload key."""

import asyncio
import base64
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from temporalio.client import Client
from typer.testing import CliRunner

from core import names as ids
from core.errors.services import ServiceAlreadyConnected, ServiceConflict, ServiceUnknown
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.tenants.lifecycle import Transition
from openkcm.agent.attestation import FileAttestor, InlineAttestor
from openkcm.contract.csr import CsrRefused, new_key, request_of
from openkcm.contract.enrolment import parse_join_token
from openkcm.errors import FileRefused, FolderRefused, InvalidName
from tests.cli.services.service_stand import a_request, application
from tests.database.builders import a_contact
from worker.payload_codec import ENCODING
from workflows.client.updates import UpdateRejected
from workflows.client.workflow_client import WorkflowClient


def test_connect_returns_the_documented_fields_and_a_private_folder(command) -> None:
    answer = command.connect()

    assert (answer["service_id"], answer["kmip"], answer["https"]) == (
        "orders-db",
        "127.0.0.1:15696",
        "https://127.0.0.1:18443",
    )
    assert datetime.fromisoformat(answer["certificate_not_after"]) == command.leaf.not_valid_after_utc
    names = {"client.key", "client.pem", "ca.pem", "mongodb.pem", "mongod.yaml", "csfle.json", "client.toml"}
    assert {path.name for path in command.out.iterdir()} == names
    assert stat.S_IMODE(command.out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in command.out.iterdir()} == {0o600}


def test_an_appliance_gets_a_long_lived_certificate_that_only_a_command_renews(command) -> None:
    words = ("service", "connect", command.tenant_id, "--kind", "microservice", "--name", "firewall")
    words = (*words, "--out", str(command.out), "--certificate-days", "100")
    answer, now = command.run(*words), datetime.now(UTC)
    assert answer["renewed_by_hand"]
    ends = command.leaf.not_valid_after_utc
    assert now + timedelta(days=99) < ends <= now + timedelta(days=100)
    shown = " ".join(CliRunner().invoke(application(), words).stdout.split())
    assert "The certificate is not renewed automatically: the service stops at its end." in shown
    renewed = command.run("service", "renew", command.tenant_id, "firewall")
    leaf, authority = x509.load_pem_x509_certificates(renewed["certificate"].encode())
    leaf.verify_directly_issued_by(authority)
    assert (leaf.public_key(), leaf.serial_number != command.leaf.serial_number) == (command.leaf.public_key(), True)
    refused = CliRunner().invoke(application(), (*words[:-1], "366"))
    assert refused.exit_code == 2
    assert not command.connect(name="orders", out=command.out.parent / "orders")["renewed_by_hand"]
    assert "certificate" not in command.run("service", "renew", command.tenant_id, "orders")


def test_a_join_token_names_one_service_and_is_stored_as_a_hash(command, tmp_path) -> None:
    words = ("service", "join-token", command.tenant_id, "--kind", "postgresql", "--name", "orders-db")
    answer = command.run(*words, "--lifetime", "15m")

    token = parse_join_token(answer["join_token"])
    assert (token.tenant_id, answer["service_id"], answer["kind"]) == (command.tenant_id, "orders-db", "postgresql")
    left = datetime.fromisoformat(answer["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)
    assert "--service orders-db --kind postgresql" in answer["agent_command"]
    assert token.secret not in answer["agent_command"]
    assert command.join_tokens() == [(token.hash, "orders-db", "postgresql", "operator", None)]
    shown = CliRunner().invoke(application(), words)
    assert shown.stdout == f"{InlineAttestor(shown.stdout).read().text}\n"
    assert "for one use" in shown.stderr
    file = tmp_path / "token"
    shown = CliRunner().invoke(application(), [*words, "--out", str(file)])
    assert (shown.stdout, stat.S_IMODE(file.stat().st_mode)) == ("", 0o600)
    assert FileAttestor(file).read().tenant_id == command.tenant_id
    made = len(command.join_tokens())
    with pytest.raises(FileRefused):
        command.run(*words, "--out", str(file))
    assert len(command.join_tokens()) == made


def test_an_unusable_join_token_is_not_created(command) -> None:
    one = ("service", "join-token", command.tenant_id, "--kind", "mongodb", "--name")
    for lifetime in ("25h", "0h", "1d", "soon"):
        with pytest.raises(InvalidName):
            command.run(*one, "orders-db", "--lifetime", lifetime)
    with pytest.raises(InvalidName):
        command.run(*one, "../orders")
    with pytest.raises(TenantUnknown):
        command.run("service", "join-token", "unknown-corp", "--kind", "mongodb", "--name", "orders-db")
    command.connect()
    with pytest.raises(ServiceConflict):
        command.run("service", "join-token", command.tenant_id, "--kind", "postgresql", "--name", "orders-db")
    with command.database.tenant_tx(command.tenant_id) as tx:
        tx.tenants.move(Transition.SUSPEND)
    with pytest.raises(TenantNotOperational):
        command.run(*one, "orders-db")
    assert command.join_tokens() == []


def test_connect_with_a_certificate_request_returns_a_certificate_and_writes_nothing(command, tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = command.connect(csr=a_request(tmp_path, key))

    leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert leaf.public_key() == key.public_key()
    assert len(x509.load_pem_x509_certificates(answer["chain"].encode())) == 2
    assert answer["files"] == []
    assert not command.out.exists()
    with pytest.raises(ServiceConflict):
        command.connect("postgresql", csr=a_request(tmp_path))
    words = ["service", "connect", command.tenant_id, "--kind", "mongodb", "--name", "orders-db"]
    shown = CliRunner().invoke(application(), [*words, "--csr", str(a_request(tmp_path, key))])
    assert shown.exit_code == 0
    assert len(x509.load_pem_x509_certificates(shown.stdout.encode())) == 3
    assert shown.stdout.startswith("-----BEGIN CERTIFICATE-----\n")


def test_list_and_show_contain_kind_state_expiry_and_last_seen(command) -> None:
    command.connect()
    assert command.list()[0]["last_seen_at"] is None
    with command.field.open("crypto").tenant_tx(command.tenant_id) as tx:
        tx.services.seen(["orders-db"], datetime(2026, 1, 15, 10, 30, tzinfo=UTC))

    [service] = command.list()
    assert (service["service_id"], service["kind"], service["state"]) == ("orders-db", "mongodb", "connected")
    assert service["certificate_not_after"]
    assert datetime.fromisoformat(service["last_seen_at"]) == datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
    assert command.run("tenant", "show", command.tenant_id)["services"] == [
        {name: value for name, value in service.items() if name != "agents"}
    ]
    assert service["agents"] == []
    shown = CliRunner().invoke(application(), ["service", "list", command.tenant_id])
    assert "2026-01-15 10:30:00" in shown.stdout
    shown = CliRunner().invoke(application(), ["tenant", "show", command.tenant_id])
    assert "orders-db (mongodb, connected)" in shown.stdout


def test_list_shows_the_connections_and_problems_of_agents(command) -> None:
    command.connect()
    now = datetime.now(UTC)
    silent = a_contact("orders-db", "host-1", last_contact_at=now - timedelta(minutes=3))
    failing = a_contact("orders-db", "host-2", problem="reload_failed", last_contact_at=now)
    with command.field.open("crypto").tenant_tx(command.tenant_id) as tx:
        tx.agents.note([silent, failing], [])
    [service] = command.list()
    assert [(one["instance"], one["connected"], one["problem"]) for one in service["agents"]] == [
        ("host-2", True, "reload_failed"),
        ("host-1", False, None),
    ]
    assert datetime.fromisoformat(service["agents"][0]["last_contact_at"]) == now
    shown = CliRunner().invoke(application(), ["service", "list", command.tenant_id])
    assert "reload_failed" in shown.stdout
    with command.field.open("crypto").tenant_tx(command.tenant_id) as tx:
        tx.agents.note([failing._replace(problem=None, last_contact_at=now + timedelta(seconds=1))], [])
    shown = CliRunner().invoke(application(), ["service", "list", command.tenant_id])
    assert "1 of 2 connected" in shown.stdout


def test_a_disconnected_service_can_be_connected_again(command) -> None:
    command.connect()

    answer = command.run("service", "disconnect", command.tenant_id, "orders-db", "--confirm", "orders-db")

    assert (answer["state"], answer["certificate_not_after"]) == ("disconnected", None)
    again = command.run("service", "disconnect", command.tenant_id, "orders-db", "--confirm", "orders-db")
    assert again["disconnected_at"] == answer["disconnected_at"]
    command.connect()
    assert command.list()[0]["state"] == "connected"


def test_a_connected_service_gets_a_certificate_for_another_key_only_with_the_option(command, tmp_path) -> None:
    command.connect()
    first = command.leaf
    elsewhere, file = tmp_path / "elsewhere", tmp_path / "request.pem"
    file.write_text(request_of(new_key()))
    for options in ({"out": elsewhere}, {"csr": file}):
        with pytest.raises(ServiceAlreadyConnected):
            command.connect(**options)
    assert not elsewhere.exists()
    with command.database.tenant_tx(command.tenant_id) as tx:
        assert tx.services.generation("orders-db") == 1
    command.connect()  # the same folder has the same key: repeated, or renewed by a timer
    assert command.leaf.public_key() == first.public_key()
    words = ("--kind", "mongodb", "--name", "orders-db", "--out", str(elsewhere), "--another-certificate")
    command.run("service", "connect", command.tenant_id, *words)
    with command.database.tenant_tx(command.tenant_id) as tx:
        newest = x509.load_pem_x509_certificate(tx.services.leaf("orders-db").certificate_pem.encode())
    assert newest.public_key() != first.public_key()


def test_renew_issues_for_the_same_key_and_does_not_change_the_folder(command) -> None:
    command.connect()
    first = command.leaf

    answer = command.run("service", "renew", command.tenant_id, "orders-db")

    with command.database.tenant_tx(command.tenant_id) as tx:
        leaf = tx.services.leaf("orders-db")
    renewed = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    assert (renewed.public_key(), leaf.generation) == (first.public_key(), 2)
    assert datetime.fromisoformat(answer["certificate_not_after"]) == leaf.not_after
    assert command.leaf == first
    command.run("service", "disconnect", command.tenant_id, "orders-db", "--confirm", "orders-db")
    with pytest.raises(UpdateRejected) as refused:
        command.run("service", "renew", command.tenant_id, "orders-db")
    assert refused.value.code == "service_unknown"


def test_a_rejected_connect_stores_nothing_and_writes_no_key(command, tmp_path) -> None:
    for word in ("disconnect", "renew"):
        with pytest.raises(ServiceUnknown):
            command.run("service", word, command.tenant_id, "orders-db")
    new = ("--kind", "mongodb", "--name", "x", "--out", str(command.out))
    for words in (("disconnect", "unknown-corp", "x"), ("list", "unknown-corp"), ("connect", "unknown-corp", *new)):
        with pytest.raises(TenantUnknown):
            command.run("service", *words)
    for name in ("", "Orders", "orders db", "-orders", "../orders", "o" * 41):
        with pytest.raises(InvalidName):
            command.connect(name=name)
    file = tmp_path / "request.pem"
    for text in ("", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "x" * 20_000):
        file.write_text(text)
        with pytest.raises(CsrRefused):
            command.connect(csr=file)
    for unreadable in (tmp_path, tmp_path / "nowhere.pem"):
        with pytest.raises(FolderRefused):
            command.connect(csr=unreadable)
    words = ["service", "connect", command.tenant_id, "--kind", "mongodb", "--name", "orders-db"]
    for wrong in (words, [*words[:-4], "--kind", "oracle", "--name", "x"]):
        assert CliRunner().invoke(application(), wrong).exit_code == 2
    with command.database.tenant_tx(command.tenant_id) as tx:
        tx.tenants.move(Transition.LOCK)
    with pytest.raises(TenantNotOperational):
        command.connect()
    assert not command.out.exists()
    assert command.list() == []


def test_a_rejection_by_the_workflow_keeps_code_message_and_hint(command, settings) -> None:
    with command.database.tenant_tx(command.tenant_id) as tx:
        tx.tenants.move(Transition.SUSPEND)

    async def ask() -> None:
        gateway = await WorkflowClient.connect(settings.temporal_address, settings.provisioning_slo_seconds)
        await gateway.connect_service(command.tenant_id, settings.regions[0], "orders-db", "request-1")

    with pytest.raises(UpdateRejected) as refused:
        asyncio.run(ask())
    expected = TenantNotOperational("suspended")
    assert (refused.value.code, refused.value.message, refused.value.hint) == (
        expected.code,
        expected.message,
        expected.hint,
    )


def test_the_workflow_history_contains_no_certificate_and_no_key(command, settings) -> None:
    command.connect()

    async def history() -> str:
        client = await Client.connect(settings.temporal_address)
        handle = client.get_workflow_handle(ids.service_workflow(command.tenant_id, "orders-db"))
        return (await handle.fetch_history()).to_json()

    text = asyncio.run(history())
    assert "BEGIN" not in text
    assert "LS0tLS1CRUdJTi" not in text  # the same in base64
    assert base64.b64encode(ENCODING).decode() in text
