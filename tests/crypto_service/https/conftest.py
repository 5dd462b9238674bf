from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crypto_service.https.stage import Stage
from tests.crypto_service.running.conftest import service, world

__all__ = ["service", "stage", "world"]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Start an HTTPS server over real mTLS with the service `orders` of one tenant."""
    with Stage(tmp_path) as running:
        yield running
