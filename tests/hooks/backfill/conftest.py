"""A database for each test, without the hook in this process except where a test asks for it."""

import pytest

from tests.hooks.backfill.stage import Stage
from tests.hooks.stand import Stand


@pytest.fixture
def stage(conninfo: str) -> Stage:
    return Stage(Stand(conninfo=conninfo))
