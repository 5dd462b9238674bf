"""Fixtures for the commands: an operator's commands on a database, and a worker on real servers."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from config import secrets
from config.secrets import Role, ensure_pair, ensure_secret, ensure_secrets
from config.settings import Settings
from core.tenants.lifecycle import Transition
from core.tenants.provisioning import EventKind, MarketplaceEvent
from database.connection.database import Database
from openkcm.cli import __main__ as client
from tests.activities.provisioning import MADE, Provisioning, run_steps
from tests.cli.root_key_stand import OperatorCli
from tests.cli.services.service_stand import Command, Running
from tests.core.proving import TENANT
from tests.dashboard.gateways.workflow_gateway import FakeAuthority, FakeGateway
from tests.dashboard.scene import ACME
from tests.database.builders import a_connected_service, a_provisioned_tenant, an_audit_event
from tests.database.fixtures import Field, Server, clone
from tests.database.signing import sign_head
from tests.worker.conftest import process_environment


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run an `audit` command of its program in this process; return its exit status and document."""

    def ask(*words: str) -> tuple[int, dict[str, Any]]:
        program = client.main if words[0] == "verify" else main
        status = program(["audit", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def secrets_folder(field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's secrets; environment variables point to them, to the database and to a state folder."""
    folder = tmp_path / "secrets"
    secrets.ensure_secret(folder, secrets.database_password(Role.OPERATOR), field.server.passwords["operator"])
    secrets.ensure_secret(folder, secrets.context_key(Role.OPERATOR), field.key("operator").hex())
    ensure_secrets(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENKCM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("OPENKCM_SECRETS_DIR", str(folder))
    monkeypatch.setenv("OPENKCM_DATABASE_URL", field.url)
    return folder


@pytest.fixture
def operator_cli(field, secrets_folder: Path, tmp_path: Path) -> OperatorCli:
    worker = field.open("worker")
    a_provisioned_tenant(worker, ACME)
    with worker.tenant_tx(ACME) as tx:
        tx.tenants.move(Transition.ACTIVATE)
    a_connected_service(field, ACME)
    intake_key = secrets.read_secret(secrets_folder, secrets.INTAKE_KEY)
    return OperatorCli(field, FakeGateway(worker, FakeAuthority(), intake_key), tmp_path)


@pytest.fixture
def stand(secrets_folder: Path, worker: Database) -> Path:
    """A tenant with a signed stream, and the operator's secrets; returns a folder for files."""
    a_provisioned_tenant(worker, TENANT)
    with worker.tenant_tx(TENANT) as tx:
        tx.audit.append_all([an_audit_event(f"e{n}", subject=f"Schlüssel {n}") for n in range(20)])
    sign_head(worker, TENANT)
    files = secrets_folder.parent / "files"
    files.mkdir()
    return files


@pytest.fixture(scope="module")
def services_field(server: Server, template: str) -> Iterator[Field]:
    """One database for all tests of a module; each test has a separate tenant."""
    with clone(server, template) as one:
        yield one


@pytest.fixture(scope="module")
def settings(services_field: Field, vault, temporal, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    state, field = tmp_path_factory.mktemp("state"), services_field
    folder = state / "secrets"
    for role in (Role.WORKER, Role.OPERATOR):
        ensure_secret(folder, secrets.database_password(role), field.server.passwords[role])
        ensure_secret(folder, secrets.context_key(role), field.key(role).hex())
    for role in (Role.WORKER, Role.OFFBOARDING, Role.OPERATOR):
        ensure_secret(folder, secrets.vault_secret(role), (vault.folder / f"{role}.secret").read_text())
    ensure_secret(folder, secrets.BOUNDARY_IDENTITY, vault.identity_pem)
    ensure_pair(folder, secrets.INTAKE_KEY, secrets.INTAKE_PUBLIC_KEY)
    return Settings(
        state_dir=state,
        regions=(f"eu-{uuid.uuid4().hex}-1",),  # no other worker serves this region
        database_url=field.url,
        vault_address=vault.url,
        temporal_port=temporal.port,
        crypto_https_port=18443,
        crypto_kmip_port=15696,
    )


@pytest.fixture(scope="module")
def running_worker(settings: Settings) -> Iterator[Running]:
    running = Running(settings)
    yield running
    running.stop()


@pytest.fixture
def command(
    running_worker: Running, settings: Settings, services_field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """The command for a new active tenant."""
    tenant = Provisioning(running_worker.parts, f"acme-{uuid.uuid4().hex[:8]}")
    event = MarketplaceEvent(
        event_id=f"event-{tenant.tenant_id}",
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=tenant.tenant_id,
        organization="ACME Corporation",
        region=settings.regions[0],
        timestamp=datetime.now(UTC),
    )
    with services_field.open("marketplace", max_size=1).tenant_tx(tenant.tenant_id) as tx:
        tx.tenants.request(event)
    run_steps(tenant, MADE)
    monkeypatch.chdir(tmp_path)
    for name, value in process_environment(settings).items():
        if name.startswith("OPENKCM_"):
            monkeypatch.setenv(name, json.dumps(settings.regions) if name == "OPENKCM_REGIONS" else value)
    return Command(tenant, services_field, tmp_path)
