import pytest

from database.connection.database import Database


@pytest.fixture
def tenants(worker: Database) -> Database:
    """The worker's database, in a module whose template contains tenants."""
    return worker
