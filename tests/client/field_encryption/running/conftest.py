"""Sample applications, the crypto service as a process, and a tenant with the service `clinic`."""

from pathlib import Path

import pytest

from tests.client.field_encryption.running.programs import MongoProgram, Program, client_folder
from tests.crypto_service.core.world import Home, World
from tests.crypto_service.running.conftest import service, world
from tests.crypto_service.running.process import Service

__all__ = ["service", "world"]


@pytest.fixture
def home(world: World, service: Service) -> Home:
    """A tenant, with the crypto service running."""
    service.start("OPENKCM_CRYPTO_PROCESSES", "1")
    service.wait_ready()
    return world.tenant()


@pytest.fixture
def program(conninfo: str, home: Home, service: Service, tmp_path: Path) -> Program:
    """A runner of programs, plain or under `openkcm run`, with a separate database."""
    return Program(conninfo, client_folder(home, "clinic", service, tmp_path / "clinic"), tmp_path, home)


@pytest.fixture
def mongo_program(mongo: str, home: Home, service: Service, tmp_path: Path) -> MongoProgram:
    """The same for programs that use MongoDB."""
    return MongoProgram(mongo, client_folder(home, "clinic", service, tmp_path / "clinic"), tmp_path, home)
