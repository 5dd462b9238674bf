"""Mutation test: the running product is broken deliberately, and its own isolation assessment must detect it.

One installation is altered and repaired for each breach, with a separate tenant, because a breach locks the tenant.
"""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT, Stack
from tests.mutation.breaking import BREACHED, STARTUP, Breach, BrokenInstallation, Source
from tests.mutation.mutants import BREACHES

SHORT = BREACHES[::4]
"""Every fourth breach; `--long` (make chaos) tests all of them."""


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokenInstallation]:
    folder = tmp_path_factory.mktemp("breaches")
    file = folder / "breached.json"
    file.write_text("")
    stack = Stack(folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(STARTUP))
        environment.setenv(BREACHED, str(file))
        stack.command("up")
    broken = BrokenInstallation(stack, file)
    # The first assessment leaves objects that later ones attack; the order of the tests is random.
    broken.enable_tenant()
    broken.check_isolation()
    yield broken
    stack.command("down")
    stack.close()


def test_an_assessment_of_the_unaltered_product_finds_no_breach(installation: BrokenInstallation) -> None:
    installation.enable_tenant()
    outcomes = installation.check_isolation()
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "held"} == {}


@pytest.mark.unit
def test_the_isolation_page_states_the_number_of_mutants() -> None:
    match = re.search(
        r"breaks the running product in (\d+) ways",
        (ROOT / "docs" / "isolation-controls.md").read_text(encoding="utf-8"),
    )
    assert match is not None
    assert int(match[1]) == len({breach.name for breach in BREACHES})


@pytest.mark.unit
def test_source_edits_match_the_product() -> None:
    """An edit that no longer matches would let the process exit instead of testing the breach."""
    sources = [change for breach in BREACHES for change in breach.changes if isinstance(change, Source)]
    for module, edits in ((module, edits) for source in sources for module, edits in source.edits.items()):
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        text = Path(str(spec.origin)).read_text(encoding="utf-8")
        for old, new in edits:
            assert text.count(old) == 1, f"{module}: {old}"
            text = text.replace(old, new)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "breach" in metafunc.fixturenames:
        breaches = BREACHES if metafunc.config.getoption("--long") else SHORT
        metafunc.parametrize("breach", breaches, ids=[breach.name for breach in breaches])


def test_an_assessment_detects_the_breach(installation: BrokenInstallation, breach: Breach) -> None:
    installation.enable_tenant()
    if breach.service == "before":
        installation.connect()
    with installation.broken(breach.changes):
        if breach.service == "after":
            installation.connect()
        outcomes = installation.check_isolation()
    found = {name.rpartition("/")[2] for name, outcome in outcomes.items() if outcome == "breached"}
    assert found & breach.detected_by, found
