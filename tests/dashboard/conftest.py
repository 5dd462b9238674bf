import pytest

from database.connection.database import Database
from tests.dashboard.people import Clock
from tests.dashboard.scene import Scene
from tests.database.fixtures import Field


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scene(field: Field) -> Scene:
    return Scene(field)
