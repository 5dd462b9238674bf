"""A database for each test; the encryption is installed in this process only where a test requests it."""

import pytest

from tests.client.field_encryption.backfill.stage import Stage
from tests.client.field_encryption.stand import Stand


@pytest.fixture
def stage(conninfo: str) -> Stage:
    return Stage(Stand(conninfo=conninfo))
