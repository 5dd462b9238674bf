"""A database for each test, without the hook in this process except where a test asks for it."""

import pytest

from tests.client.field_encryption.backfill.stage import Stage
from tests.client.field_encryption.stand import Stand


@pytest.fixture
def stage(conninfo: str) -> Stage:
    return Stage(Stand(conninfo=conninfo))
