from collections.abc import Iterator

import pytest

from tests.chaos.field import Field
from tests.ports import free_ports

_PORTS = 6


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    # Not the shared servers of the session: what is shot here must not be anybody else's.
    started = Field(tmp_path_factory.mktemp("field"), free_ports(_PORTS, neighbours=1))
    started.start()
    yield started
    started.stop()
