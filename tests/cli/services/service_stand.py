"""A tenant, a worker and the `openkcmctl service` command on real servers."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from temporalio.client import Client
from typer.testing import CliRunner

import cli.services.commands
import cli.tenants.commands
from config.settings import Settings
from database.connection.database import Database
from tests.activities.provisioning import Provisioning
from tests.cli.background import Background
from tests.database.fixtures import Field
from worker import wiring
from worker.bootstrap import ensure_root_keys
from worker.task_queues import run_workers


class Running(Background):
    """The worker with the wiring of the product."""

    def __init__(self, settings: Settings) -> None:
        self.parts = wiring.build(settings)
        super().__init__(self._worker(settings))

    @asynccontextmanager
    async def _worker(self, settings: Settings) -> AsyncIterator[None]:
        self.parts.keyring.open_platform_key()
        ensure_root_keys(self.parts.root_keys, settings.regions)
        assert settings.temporal_address is not None
        client = await Client.connect(settings.temporal_address, data_converter=self.parts.converter)
        async with run_workers(wiring.workers(client, self.parts), self.parts.stopping):
            yield

    def stop(self) -> None:
        super().stop()
        self.parts.database.close()


class Command:
    """Runs commands with --json for one tenant."""

    def __init__(self, tenant: Provisioning, field: Field, folder: Path) -> None:
        self.field, self.tenant, self.tenant_id = field, tenant, tenant.tenant_id
        self.out = folder / "orders-db"

    def run(self, *words: str) -> Any:
        """Run a command and return its document; raises the error that `cli.__main__` would get."""
        result = CliRunner().invoke(application(), [*words, "--json"])
        if result.exception is not None:
            raise result.exception
        return json.loads(result.stdout)

    def connect(self, kind: str = "mongodb", name: str = "orders-db", **options: Path) -> Any:
        where = options or {"out": self.out}
        flags = [word for flag, value in where.items() for word in (f"--{flag}", str(value))]
        return self.run("service", "connect", self.tenant_id, "--kind", kind, "--name", name, *flags)

    def join_tokens(self) -> list[Any]:
        """Return the stored rows of the tenant's join tokens."""
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
    cli.services.commands.register(app)
    cli.tenants.commands.register(app)
    return app


def a_request(folder: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    file = folder / "request.pem"
    file.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return file
