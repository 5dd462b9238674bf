from collections.abc import AsyncIterator, Iterator

import pytest

from crypto.blocking import FairThreads
from tests.crypto.core.world import Changes, Journal, World
from tests.database.fixtures import Field, field, server, template
from tests.vault import server as vault_server

__all__ = ["field", "server", "template"]


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vault_server.Server]:
    running = vault_server.start(tmp_path_factory.mktemp("openbao"))
    yield running
    running.kill()


@pytest.fixture
def world(field: Field, vault: vault_server.Server) -> World:
    return World(field, vault)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
async def threads() -> AsyncIterator[FairThreads]:
    pool = FairThreads()
    yield pool
    pool.close()
