"""Nothing that must never be is reached, in any order of what may happen; and each guard left out reaches it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.model.mutants import MUTANTS
from tests.model.scopes import LONG, SHORT
from tests.model.state import Rules
from tests.model.tenants import search

SCOPES = {**SHORT, **LONG}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scope" in metafunc.fixturenames:
        metafunc.parametrize("scope", SCOPES if metafunc.config.getoption("--long") else SHORT)


def test_nothing_that_must_never_be_is_reached(scope: str, record_property: Callable[[str, object], None]) -> None:
    found = search(SCOPES[scope])
    record_property("model", str(found))
    assert found.broken is None, str(found)
    assert found.states > 200


@pytest.mark.parametrize("mutant", MUTANTS)
def test_without_a_guard_it_is_reached_and_the_story_is_told(mutant: str) -> None:
    rules, scope, breaks = MUTANTS[mutant]
    found = search(SCOPES[scope], rules)
    assert found.broken == breaks, str(found)
    assert found.story is not None
    assert str(found.story).startswith("  1. ")
    assert len(str(found.story).splitlines()) == len(found.story.steps)


def test_every_guard_has_a_mutant() -> None:
    left_out = {
        name for rules, _, _ in MUTANTS.values() for name, value in vars(rules).items() if value != vars(Rules())[name]
    }
    # These two decide what is wanted and not what is safe: tests/tenancy/test_locks.py.
    assert vars(Rules()).keys() - left_out == {"closes", "may_change_root_key"}


@pytest.mark.parametrize("guard", ["binds_context", "l2_of_its_own"])
def test_either_of_two_walls_alone_keeps_a_stolen_row_shut(guard: str) -> None:
    assert search(SHORT["strangers"], replace(Rules(), **{guard: False})).broken is None
