from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crypto.https.stage import Stage
from tests.crypto.running.conftest import service, vault, world
from tests.database.fixtures import field, server, template, worker

__all__ = ["field", "server", "service", "stage", "template", "vault", "worker", "world"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A front over real mTLS with the service `orders` of one tenant."""
    with Stage(tmp_path) as running:
        yield running
