"""The mutation run: the running product is broken on purpose, and its own examination of a tenant must report it.

One installation, altered and repaired for each breach; each on a separate tenant, because a breach locks it.
"""

import re
from collections.abc import Iterator

import pytest

from tests.breaches.breaking import BREACHED, STARTUP, Breach, Ground
from tests.breaches.mutants import BREACHES
from tests.stories.stack import ROOT, Stack

SHORT = BREACHES[::4]
"""One of each four; all of them with `--long` (make chaos)."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("breaches")
    file = folder / "breached.json"
    file.write_text("")
    stack = Stack(folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(STARTUP))
        environment.setenv(BREACHED, str(file))
        stack.command("up")
    yield Ground(stack, file)
    stack.command("down")
    stack.close()


def test_examination_of_the_unaltered_product_finds_no_breach(ground: Ground) -> None:
    for _ in range(2):  # the first one leaves what the second one's key is tried on
        ground.settle()
        outcomes = ground.examine()
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "held"} == {}


@pytest.mark.unit
def test_readme_states_the_number_of_mutants() -> None:
    said = re.search(r"breaks the running product in (\d+) ways", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert said is not None
    assert int(said[1]) == len({breach.name for breach in BREACHES})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "breach" in metafunc.fixturenames:
        breaches = BREACHES if metafunc.config.getoption("--long") else SHORT
        metafunc.parametrize("breach", breaches, ids=[breach.name for breach in breaches])


def test_examination_finds_the_breach(ground: Ground, breach: Breach) -> None:
    ground.settle()
    if breach.service == "before":
        ground.connect()
    with ground.broken(breach.how):
        if breach.service == "after":
            ground.connect()
        outcomes = ground.examine()
    found = {name.rpartition("/")[2] for name, outcome in outcomes.items() if outcome == "breached"}
    assert found & breach.caught_by, found
