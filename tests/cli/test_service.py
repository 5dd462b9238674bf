"""`openkcm service` against real servers: a worker does the work, the command has neither Vault nor a payload key."""

import asyncio
import base64
import json
import ssl
import stat
import subprocess
import sys
import threading
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from temporalio.client import Client
from typer.testing import CliRunner

import cli.service
import cli.tenant
from cli.service_files import FolderRefused
from config import secrets
from config.secrets import Role, ensure_secret
from config.settings import Settings
from database.connection import Database
from tenancy import ids
from tenancy.errors import (
    InvalidName,
    ServiceConflict,
    ServiceUnknown,
    TemporalUnavailable,
    TenantClosed,
    TenantUnknown,
)
from tenancy.events import EventKind, MarketplaceEvent
from tenancy.lifecycle import Move
from tenancy.provisioning import Step
from tests.activities.conftest import Provisioning, key_server, run_steps
from tests.database.fixtures import field, server, template
from tests.worker.conftest import process_environment
from vault.certificates import CsrRefused
from worker import wiring
from worker.bootstrap import ensure_root_keys
from worker.codec import ENCODING
from workflows.gateway import Gateway, UpdateRefused

__all__ = ["field", "key_server", "server", "template"]  # fixtures that pytest finds here by their names


class Running:
    """The worker's real wiring in a thread of its own, because the commands are synchronous."""

    def __init__(self, settings: Settings) -> None:
        self.parts = wiring.build(settings)
        self._started, self._loop = threading.Event(), asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._settings = settings
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._started.wait(30)

    async def _serve(self) -> None:
        self.parts.keyring.open_platform_key()
        ensure_root_keys(self.parts.root_keys, self._settings.regions)
        address = self._settings.temporal_address
        assert address is not None
        client = await Client.connect(address, data_converter=self.parts.converter)
        [lifecycle, *_] = wiring.workers(client, self.parts)
        async with lifecycle:
            self._started.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()
        self.parts.database.close()


@pytest.fixture
def settings(field, key_server, temporal, tmp_path: Path) -> Settings:
    folder = tmp_path / "state" / "secrets"
    for role in (Role.WORKER, Role.OPERATOR):
        ensure_secret(folder, secrets.database_password(role), field.server.passwords[role])
        ensure_secret(folder, secrets.context_key(role), field.key(role).hex())
    ensure_secret(folder, secrets.vault_secret(Role.WORKER), (key_server.folder / "worker.secret").read_text())
    ensure_secret(folder, secrets.BOUNDARY_IDENTITY, key_server.identity_pem)
    return Settings(
        state_dir=tmp_path / "state",
        # Nobody else's worker listens in a region of our own.
        regions=(f"eu-{uuid.uuid4().hex}-1",),
        database_url=field.url,
        vault_address=key_server.url,
        temporal_port=temporal.port,
        crypto_https_port=18443,
        crypto_kmip_port=15696,
    )


@pytest.fixture
def worker(settings: Settings) -> Iterator[Running]:
    running = Running(settings)
    yield running
    running.stop()


@pytest.fixture
def tenant(worker: Running, settings: Settings, field) -> Provisioning:
    """An active tenant."""
    tenant = Provisioning(worker.parts, f"acme-{uuid.uuid4().hex[:8]}")
    event = MarketplaceEvent(
        event_id="event-1",
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=tenant.tenant_id,
        organization="ACME Corporation",
        region=settings.regions[0],
        timestamp=datetime.now(UTC),
    )
    marketplace = field.open("marketplace")
    with marketplace.tenant_tx(tenant.tenant_id) as tx:
        tx.tenants.request(event)
    run_steps(tenant, [Step.OPEN_RECORDS, Step.CREATE_KEYS, Step.CREATE_AUTHORITY, Step.ACTIVATE])
    return tenant


class Command:
    """The command as a script sees it."""

    def __init__(self, tenant: Provisioning, folder: Path) -> None:
        self.tenant, self.tenant_id, self.out = tenant, tenant.tenant_id, folder / "orders-db"

    def run(self, *words: str) -> Any:
        """Run a command as `cli.__main__` does and return its document; a refusal is raised."""
        result = CliRunner().invoke(application(), [*words, "--json"])
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout)

    def connect(self, kind: str = "mongodb", name: str = "orders-db", **options: Path) -> Any:
        where = options or {"out": self.out}
        flags = [word for flag, value in where.items() for word in (f"--{flag}", str(value))]
        return self.run("service", "connect", self.tenant_id, "--kind", kind, "--name", name, *flags)

    def list(self) -> list[dict[str, Any]]:
        services: list[dict[str, Any]] = self.run("service", "list", self.tenant_id)["services"]
        return services

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.out / "client.pem").read_bytes())

    @property
    def database(self) -> Database:
        return self.tenant.database


def application() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.service.register(app)
    cli.tenant.register(app)
    return app


@pytest.fixture
def command(tenant: Provisioning, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    for name, value in process_environment(settings).items():
        if name.startswith("OPENKCM_"):
            monkeypatch.setenv(name, json.dumps(settings.regions) if name == "OPENKCM_REGIONS" else value)
    return Command(tenant, tmp_path)


def a_request(folder: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    file = folder / "request.pem"
    file.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return file


def test_connecting_answers_with_the_contracts_fields_and_a_folder_for_its_owner_alone(command) -> None:
    answer = command.connect()

    assert (answer["service_id"], answer["kmip"], answer["https"]) == (
        "orders-db",
        "127.0.0.1:15696",
        "https://127.0.0.1:18443",
    )
    assert datetime.fromisoformat(answer["certificate_not_after"]) == command.leaf.not_valid_after_utc
    names = {"client.key", "client.pem", "ca.pem", "mongodb.pem", "mongod.yaml", "csfle.json"}
    assert {path.name for path in command.out.iterdir()} == names
    assert stat.S_IMODE(command.out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in command.out.iterdir()} == {0o600}


def test_the_certificate_fits_the_key_and_chains_to_the_root_in_the_folder(command) -> None:
    command.connect()

    context = ssl.create_default_context(cafile=str(command.out / "ca.pem"))
    context.load_cert_chain(command.out / "client.pem", command.out / "client.key")
    context.load_cert_chain(command.out / "mongodb.pem")
    leaf, authority = x509.load_pem_x509_certificates((command.out / "client.pem").read_bytes())
    [root] = x509.load_pem_x509_certificates((command.out / "ca.pem").read_bytes())
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)


def test_mongodb_gets_what_mongod_and_the_drivers_read(command) -> None:
    command.connect()

    options = json.loads((command.out / "csfle.json").read_text())
    assert options["kms_providers"] == {"kmip": {"endpoint": "127.0.0.1:15696"}}
    for file in options["kms_tls_options"]["kmip"].values():
        assert Path(file).is_absolute()
        assert Path(file).parent == command.out
    mongod = (command.out / "mongod.yaml").read_text()
    assert f'clientCertificateFile: "{command.out}/mongodb.pem"' in mongod
    assert 'serverName: "127.0.0.1"\n    port: 15696' in mongod


def test_postgresql_gets_statements_and_a_microservice_gets_toml(command, tmp_path) -> None:
    command.connect("postgresql", "billing", out=tmp_path / "it's billing")
    sql = (tmp_path / "it's billing" / "pg_tde.sql").read_text()
    assert "kmip_port      => 15696" in sql
    assert f"{str(tmp_path).replace(chr(39), chr(39) * 2)}/it''s billing/client.key'" in sql

    command.connect("microservice", "mail", out=tmp_path / "mail")
    read = tomllib.loads((tmp_path / "mail" / "openkcm.toml").read_text())
    assert read == {
        "https": "https://127.0.0.1:18443",
        "kmip": "127.0.0.1:15696",
        "certificate": f"{tmp_path}/mail/client.pem",
        "key": f"{tmp_path}/mail/client.key",
        "ca": f"{tmp_path}/mail/ca.pem",
    }
    assert not (tmp_path / "mail" / "mongodb.pem").exists()


def test_connecting_again_keeps_the_key_and_replaces_the_certificate(command) -> None:
    command.connect()
    key, first = (command.out / "client.key").read_bytes(), command.leaf

    command.connect()

    assert (command.out / "client.key").read_bytes() == key
    assert command.leaf.serial_number != first.serial_number
    assert command.leaf.public_key() == first.public_key()
    [service] = command.list()
    assert datetime.fromisoformat(service["certificate_not_after"]) == command.leaf.not_valid_after_utc


def test_two_commands_at_once_into_one_folder_end_with_one_key_and_a_certificate_for_it(command) -> None:
    words = [sys.executable, "-m", "cli", "service", "connect", command.tenant_id, "--kind", "mongodb"]
    words += ["--name", "orders-db", "--out", str(command.out), "--json"]
    tried = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in tried]
    # Whoever finds that the other got a later certificate says so; the folder is whole in any case.
    assert [answer for answer in answers if "certificate_not_after" in answer], answers
    assert {answer["error"]["code"] for answer in answers if "error" in answer} <= {"overtaken"}
    key = serialization.load_pem_private_key((command.out / "client.key").read_bytes(), None)
    assert command.leaf.public_key() == key.public_key()


def test_a_request_made_elsewhere_brings_back_a_certificate_and_writes_nothing(command, tmp_path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = command.connect(csr=a_request(tmp_path, key))

    leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert leaf.public_key() == key.public_key()
    assert len(x509.load_pem_x509_certificates(answer["chain"].encode())) == 2
    assert answer["files"] == []
    assert not command.out.exists()


def test_a_request_made_elsewhere_can_be_answered_into_a_folder_without_a_key(command, tmp_path) -> None:
    command.connect(csr=a_request(tmp_path), out=command.out)
    assert {path.name for path in command.out.iterdir()} == {"client.pem", "ca.pem"}
    command.run("service", "list", command.tenant_id)
    command.connect("microservice", "mail", out=tmp_path / "mail")
    with pytest.raises(FolderRefused):
        command.connect("microservice", "mail", csr=a_request(tmp_path), out=tmp_path / "mail")


def test_a_person_who_sent_a_request_sees_the_certificate_and_nothing_else(command, tmp_path) -> None:
    words = ["service", "connect", command.tenant_id, "--kind", "mongodb", "--name", "orders-db"]
    shown = CliRunner().invoke(application(), [*words, "--csr", str(a_request(tmp_path))])
    assert shown.exit_code == 0
    assert len(x509.load_pem_x509_certificates(shown.stdout.encode())) == 3
    assert shown.stdout.startswith("-----BEGIN CERTIFICATE-----\n")


def test_list_and_show_tell_kind_state_expiry_and_last_seen(command, field) -> None:
    command.connect()
    assert command.list()[0]["last_seen_at"] is None
    with field.open("crypto").tenant_tx(command.tenant_id) as tx:
        tx.services.seen(["orders-db"], datetime(2026, 1, 15, 10, 30, tzinfo=UTC))

    [service] = command.list()
    assert (service["service_id"], service["kind"], service["state"]) == ("orders-db", "mongodb", "connected")
    assert service["certificate_not_after"]
    assert datetime.fromisoformat(service["last_seen_at"]) == datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
    assert command.run("tenant", "show", command.tenant_id)["services"] == [service]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(application(), ["service", "list", command.tenant_id])
    assert "2026-01-15 10:30:00" in shown.stdout
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(application(), ["tenant", "show", command.tenant_id])
    assert "orders-db (mongodb, connected)" in shown.stdout


def test_disconnecting_revokes_and_a_service_can_come_back(command) -> None:
    command.connect()

    answer = command.run("service", "disconnect", command.tenant_id, "orders-db")

    assert (answer["state"], answer["certificate_not_after"]) == ("disconnected", None)
    again = command.run("service", "disconnect", command.tenant_id, "orders-db")
    assert again["disconnected_at"] == answer["disconnected_at"]
    command.connect()
    assert command.list()[0]["state"] == "connected"


def test_a_renewal_on_demand_is_for_the_same_key_and_the_folder_waits_for_its_service(command) -> None:
    command.connect()
    first = command.leaf

    answer = command.run("service", "renew", command.tenant_id, "orders-db")

    with command.database.tenant_tx(command.tenant_id) as tx:
        leaf = tx.services.leaf("orders-db")
    renewed = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    assert (renewed.public_key(), leaf.generation) == (first.public_key(), 2)
    assert datetime.fromisoformat(answer["certificate_not_after"]) == leaf.not_after
    assert command.leaf == first
    command.run("service", "disconnect", command.tenant_id, "orders-db")
    with pytest.raises(UpdateRefused) as refused:
        command.run("service", "renew", command.tenant_id, "orders-db")
    assert refused.value.code == "service_unknown"


def test_an_unknown_service_or_tenant_is_said_so(command) -> None:
    for word in ("disconnect", "renew"):
        with pytest.raises(ServiceUnknown):
            command.run("service", word, command.tenant_id, "orders-db")
    for words in (("disconnect", "nobody-here", "orders-db"), ("list", "nobody-here")):
        with pytest.raises(TenantUnknown):
            command.run("service", *words)
    with pytest.raises(TenantUnknown):
        command.run("service", "connect", "nobody-here", "--kind", "mongodb", "--name", "x", "--out", str(command.out))
    assert not command.out.exists()


def test_a_tenant_that_is_locked_connects_nothing_and_no_key_is_made(command) -> None:
    with command.database.tenant_tx(command.tenant_id) as tx:
        tx.tenants.move(Move.LOCK)
    with pytest.raises(TenantClosed):
        command.connect()
    assert not command.out.exists()
    assert command.list() == []


def test_the_workflow_refuses_on_its_own_and_the_refusal_arrives_whole(command, settings) -> None:
    with command.database.tenant_tx(command.tenant_id) as tx:
        tx.tenants.move(Move.SUSPEND)

    async def ask() -> None:
        gateway = await Gateway.connect(settings.temporal_address, settings.promise_seconds)
        await gateway.connect_service(command.tenant_id, settings.regions[0], "orders-db", "request-1")

    with pytest.raises(UpdateRefused) as refused:
        asyncio.run(ask())
    closed = TenantClosed("suspended")
    assert (refused.value.code, refused.value.message, refused.value.hint) == (
        closed.code,
        closed.message,
        closed.hint,
    )


def test_another_kind_under_the_same_name_is_refused(command) -> None:
    command.connect()
    with pytest.raises(ServiceConflict):
        command.connect("postgresql")


def test_a_name_that_may_not_stand_in_a_certificate_is_refused(command) -> None:
    for name in ("", "Orders", "orders db", "-orders", "../orders", "o" * 41):
        with pytest.raises(InvalidName):
            command.connect(name=name)
    assert not command.out.exists()


def test_a_request_that_is_none_is_refused_before_it_is_stored(command, tmp_path) -> None:
    file = tmp_path / "request.pem"
    for text in ("", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "x" * 20_000):
        file.write_text(text)
        with pytest.raises(CsrRefused):
            command.connect(csr=file)
    for unreadable in (tmp_path, tmp_path / "nowhere.pem"):
        with pytest.raises(FolderRefused):
            command.connect(csr=unreadable)
    assert command.list() == []


def test_saying_neither_where_nor_what_is_wrong_usage(command) -> None:
    words = ["service", "connect", command.tenant_id, "--kind", "mongodb", "--name", "orders-db"]
    assert CliRunner().invoke(application(), words).exit_code == 2
    assert CliRunner().invoke(application(), [*words[:-4], "--kind", "oracle", "--name", "x"]).exit_code == 2


def test_a_folder_that_others_can_read_is_refused(command) -> None:
    command.out.mkdir(mode=0o755)
    with pytest.raises(FolderRefused):
        command.connect()
    assert list(command.out.iterdir()) == []


def test_a_folder_of_another_service_is_refused_and_left_alone(command) -> None:
    command.connect()
    before = {path.name: path.read_bytes() for path in command.out.iterdir()}
    with pytest.raises(FolderRefused):
        command.connect("microservice", "mail", out=command.out)
    assert {path.name: path.read_bytes() for path in command.out.iterdir()} == before


def test_a_key_that_cannot_be_used_is_refused_and_never_replaced(command) -> None:
    command.connect()
    key = command.out / "client.key"
    before = key.read_bytes()
    key.chmod(0o644)
    with pytest.raises(FolderRefused):
        command.connect()
    assert key.read_bytes() == before
    key.chmod(0o600)
    key.write_text("nonsense")
    with pytest.raises(FolderRefused):
        command.connect()
    assert key.read_text() == "nonsense"


def test_a_file_in_place_of_the_folder_is_refused(command) -> None:
    command.out.write_text("")
    with pytest.raises(FolderRefused):
        command.connect()


def test_temporal_that_is_down_is_said_so_and_the_key_waits_for_the_next_try(
    command, free_port, monkeypatch, temporal
) -> None:
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(free_port))
    with pytest.raises(TemporalUnavailable):
        command.connect()
    key = (command.out / "client.key").read_bytes()
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(temporal.port))
    command.connect()
    assert (command.out / "client.key").read_bytes() == key


def test_what_travels_through_temporal_holds_no_certificate_and_no_key(command, settings) -> None:
    command.connect()

    async def history() -> str:
        client = await Client.connect(settings.temporal_address)
        handle = client.get_workflow_handle(ids.service_workflow(command.tenant_id, "orders-db"))
        return (await handle.fetch_history()).to_json()

    text = asyncio.run(history())
    assert "BEGIN" not in text
    assert "LS0tLS1CRUdJTi" not in text  # the same in base64
    assert base64.b64encode(ENCODING).decode() in text
