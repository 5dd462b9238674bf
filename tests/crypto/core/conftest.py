from collections.abc import AsyncIterator

import pytest

from crypto.blocking import FairThreads
from tests.crypto.core.world import Changes, Journal, World
from tests.database.fixtures import Field
from tests.vault import server as vault_server


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
