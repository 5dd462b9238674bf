from collections.abc import AsyncIterator, Iterator

import pytest

from crypto_service.server.executor import FairExecutor
from tests.crypto_service.core.world import Changes, Journal, World
from tests.database.fixtures import Server, clone
from tests.vault import server as vault_server


@pytest.fixture(scope="module")
def world(server: Server, template: str, vault: vault_server.Server) -> Iterator[World]:
    """Return one database for the tests of a module; each test has separate tenants."""
    with clone(server, template) as field:
        yield World(field, vault)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
async def threads() -> AsyncIterator[FairExecutor]:
    pool = FairExecutor()
    yield pool
    pool.close()
