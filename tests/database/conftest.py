import pytest

from database.connection.database import Database


@pytest.fixture
def tenants(worker: Database) -> Database:
    """The worker's role, in a module whose template is filled with tenants."""
    return worker
