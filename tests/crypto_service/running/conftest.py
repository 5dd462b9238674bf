"""A separate database for each test, a key server for all, and the service as a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto_service.audit.wal import journal_folder
from tests.crypto_service.core.world import World
from tests.crypto_service.running.process import Service
from tests.database.builders import a_connected_service, a_provisioned_tenant
from tests.database.fixtures import Field
from tests.vault import server as vault_server


@pytest.fixture
def tenants(field: Field) -> Field:
    """Create the tenants acme and beta, each with a service, only in the database."""
    for tenant, serial in (("acme", "1a2b"), ("beta", "2b3c")):
        a_provisioned_tenant(field.open("worker", max_size=1), tenant)
        a_connected_service(field, tenant, serial=serial)
    return field


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return journal_folder(tmp_path)


@pytest.fixture
def world(field: Field, vault: vault_server.Server) -> World:
    return World(field, vault)


@pytest.fixture
def service(world: World, tmp_path: Path) -> Iterator[Service]:
    """Return the service, not started yet; it is killed at the end."""
    running = Service(world, tmp_path)
    yield running
    running.kill()
