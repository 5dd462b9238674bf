"""One installation for all stories, told in this order: enable (1), tenant (2), survival, and what traces are left."""

from collections.abc import Iterator

import pytest

from tests.stories.stack import ACME, Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One stack for all of them: on many xdist workers they still run in one.
    for item in items:
        if "stories" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("stories"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running installation, started by `openkcm up` in an empty folder."""
    stack = Stack(tmp_path_factory.mktemp("stories"))
    stack.command("up")
    yield stack
    stack.command("down")
    stack.close()


@pytest.fixture(scope="session")
def acme(stack: Stack) -> str:
    """ACME Corporation, which clicked once and was told that it is ready."""
    stack.enable(ACME, "ACME Corporation")
    stack.wait_announced(ACME)
    return ACME
