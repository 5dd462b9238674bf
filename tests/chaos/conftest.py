from collections.abc import Iterator

import pytest
from field import Field


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory, free_ports) -> Iterator[Field]:
    started = Field(tmp_path_factory.mktemp("field"), free_ports(7))
    started.start()
    yield started
    started.stop()
