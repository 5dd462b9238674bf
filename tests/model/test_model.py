"""No forbidden state is reached, in any order of events; and without a guard it is."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.model.mutants import MUTANTS
from tests.model.scopes import LONG, SHORT
from tests.model.state import Rules
from tests.model.tenants import search

SCOPES = {**SHORT, **LONG}
LARGE = {"served while keys rotate", "root key taken away", "root key changed, tenant key rotated"}
"""Searches of the short form that are run in the full tier."""
REPRESENTATIVE = "word of a change drops nothing"
"""The mutant that every run tries; the others are for the full tier."""


def _full_unless(name: str, ordinary: bool) -> object:  # noqa: FBT001 - a condition
    return pytest.param(name, marks=[] if ordinary else [pytest.mark.full])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scope" in metafunc.fixturenames:
        scopes = SCOPES if metafunc.config.getoption("--long") else SHORT
        metafunc.parametrize("scope", [_full_unless(name, name in SHORT and name not in LARGE) for name in scopes])


def test_no_forbidden_state_is_reached(scope: str, record_property: Callable[[str, object], None]) -> None:
    found = search(SCOPES[scope])
    record_property("model", str(found))
    assert found.broken is None, str(found)
    assert found.states > 200


@pytest.mark.parametrize("mutant", [_full_unless(name, name == REPRESENTATIVE) for name in MUTANTS])
def test_without_a_guard_it_is_reached_by_a_story(mutant: str) -> None:
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
    # These two decide what is wanted and not what is safe: tests/core/tenants/test_locks.py.
    assert vars(Rules()).keys() - left_out == {"closes", "may_change_root_key"}


@pytest.mark.parametrize("guard", ["binds_context", "l2_of_its_own"])
def test_either_of_two_guards_alone_protects_a_stolen_row(guard: str) -> None:
    assert search(SHORT["strangers"], replace(Rules(), **{guard: False})).broken is None
