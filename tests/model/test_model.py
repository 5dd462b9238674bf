"""No forbidden state is reachable in any order of events; without a guard one is."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.model.mutants import MUTANTS
from tests.model.scopes import LONG, SHORT
from tests.model.state import Rules
from tests.model.tenants import search

SCOPES = {**SHORT, **LONG}
LARGE = {"served while keys rotate", "root key disabled", "root key changed, tenant key rotated"}
"""Searches of the short form that run only in the full tier."""
REPRESENTATIVE = "a notification drops nothing"
"""The mutant that every run tries; the others run in the full tier."""


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
def test_without_a_guard_a_forbidden_state_is_reached(mutant: str) -> None:
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
    # These two decide what is wanted, not what is safe: tests/core/tenants/test_locks.py.
    assert vars(Rules()).keys() - left_out == {"closes", "may_change_root_key"}


@pytest.mark.parametrize("guard", ["binds_context", "l2_per_tenant"])
def test_one_of_two_guards_protects_a_copied_row(guard: str) -> None:
    assert search(SHORT["attacks"], replace(Rules(), **{guard: False})).broken is None
