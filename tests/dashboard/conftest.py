import pytest

from tests.dashboard.scene import Scene
from tests.database.fixtures import Field


@pytest.fixture
def scene(field: Field) -> Scene:
    return Scene(field)
