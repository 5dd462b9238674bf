from collections.abc import Iterator

import pytest

from tests.chaos.field import Field
from tests.ports import free_ports

_PORTS = 6


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    # Dedicated servers, not the shared ones of the session, because they are killed.
    started = Field(tmp_path_factory.mktemp("field"), free_ports(_PORTS, neighbours=1))
    started.start()
    yield started
    started.stop()
