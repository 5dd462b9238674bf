"""A tenant, a worker and the `openkcm service` command over real servers."""

import asyncio
import json
import threading
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
from config import secrets
from config.secrets import Role, ensure_secret
from config.settings import Settings
from database.connection import Database
from devstack.secrets import ensure_pair
from tenancy.events import EventKind, MarketplaceEvent
from tests.activities.provisioning import MADE, Provisioning, run_steps
from tests.database.fixtures import Field, Server, clone
from tests.worker.conftest import process_environment
from worker import wiring
from worker.bootstrap import ensure_root_keys


class Running:
    """The worker's real wiring in a thread of its own, because the commands are synchronous."""

    def __init__(self, settings: Settings) -> None:
        self.parts = wiring.build(settings)
        self._started, self._loop = threading.Event(), asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._settings = settings
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._started.wait(60)

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
        self._thread.join(60)
        self._loop.close()
        self.parts.database.close()


@pytest.fixture(scope="module")
def services_field(server: Server, template: str) -> Iterator[Field]:
    """One database for all tests of a module: each has a separate tenant."""
    with clone(server, template) as one:
        yield one


@pytest.fixture(scope="module")
def settings(services_field: Field, vault, temporal, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    state, field = tmp_path_factory.mktemp("state"), services_field
    folder = state / "secrets"
    for role in (Role.WORKER, Role.OPERATOR):
        ensure_secret(folder, secrets.database_password(role), field.server.passwords[role])
        ensure_secret(folder, secrets.context_key(role), field.key(role).hex())
    for role in (Role.WORKER, Role.OFFBOARDING):
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


class Command:
    """The command as a script sees it."""

    def __init__(self, tenant: Provisioning, field: Field, folder: Path) -> None:
        self.field, self.tenant, self.tenant_id = field, tenant, tenant.tenant_id
        self.out = folder / "orders-db"

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

    def join_tokens(self) -> list[Any]:
        """Return what is stored of the tenant's join tokens."""
        columns = "token_hash, service, kind, made_by, used_at"
        with self.field.administrator() as administrator:
            query = f"select {columns} from okcm.join_token where tenant_id = %s"
            return administrator.execute(query, [self.tenant_id]).fetchall()

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


def a_request(folder: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    file = folder / "request.pem"
    file.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return file
