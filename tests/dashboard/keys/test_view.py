"""What the page Keys says about rows, and what each action would do, without a database."""

from dataclasses import replace

import pytest

from core.tenants.lifecycle import State, Transition
from core.tenants.locks import LockReason
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from dashboard.components.key_actions import ACTIONS, WHERE, KeyAction, offers
from dashboard.keys import view as keys
from dashboard.root_keys import guides as root_choices
from database.keys import KeyVersionRow
from database.services.managed_objects import ObjectCountRow
from tests.dashboard.held import HOUR, KEY_ARN, NOW, TENANT, a_held_key, a_key, a_service, some_use

ALL = frozenset(Permission)


def held(*rows: KeyVersionRow) -> keys.Versions:
    return keys.Versions(rows, [], TenantPolicy())


def test_the_root_key_is_the_one_that_the_service_keys_are_wrapped_by() -> None:
    assert keys.root(TENANT, None, []) == keys.RootKey(
        "Platform-Managed (default)", "root-eu-west-1", "Ready: it wraps no service key yet."
    )
    used = keys.root(TENANT, None, [a_key("a"), a_key("a", 2), a_key("b")])
    assert used.state == "In use: it wraps 2 service keys."
    own = keys.root(replace(TENANT, root_key_mode="aws-kms"), a_held_key(), [a_key("a")])
    assert (own.mode, own.name) == ("Your own key in AWS KMS (BYOK)", KEY_ARN)


@pytest.mark.parametrize("state", [state for state in State if state not in {State.ACTIVE, State.SUSPENDED}])
def test_a_root_key_that_opens_nothing_is_not_called_in_use(state: State) -> None:
    said = keys.root(replace(TENANT, state=state), None, [a_key("a")]).state
    assert "it wraps" not in said


def test_a_service_key_says_its_versions_its_objects_and_its_last_use() -> None:
    [one] = keys.service_keys(
        [a_service("orders", last_seen_at=NOW - HOUR)],
        held(a_key("orders"), a_key("orders", 2)),
        [ObjectCountRow("orders", 2, 1200), ObjectCountRow("orders", 9, 1), ObjectCountRow("users", 2, 7)],
        [some_use("orders", 10, 3), some_use("users", 99)],
        NOW,
    )
    assert [version.partition(":")[0] for version in one.versions] == ["**Version 2**", "**Version 1**"]
    assert one.objects == "1,201 KMIP objects lie under it: 1,200 active and 1 of another state."
    assert one.used == "Last used 25 Nov 2026, 11:00 UTC (1 hour ago). 7 operations in the last 24 hours."
    assert one.kind == "mongodb"


def test_a_key_that_was_only_refused_was_not_used() -> None:
    [one] = keys.service_keys([a_service("orders")], held(a_key("orders")), [], [some_use("orders", 5, 5)], NOW)
    assert one.used == "Not used so far."
    assert one.objects == "No KMIP objects lie under it."


def test_a_use_in_a_minute_counts_where_nobody_wrote_down_when_the_service_was_seen() -> None:
    [one] = keys.service_keys([], held(a_key("orders")), [], [some_use("orders", 5)], NOW)
    assert "2 hours ago" in one.used
    assert one.kind == ""


def test_many_keys_are_searched_by_name_and_shown_up_to_a_page() -> None:
    made = keys.service_keys([], held(*(a_key(f"service-{number}") for number in range(100))), [], [], NOW)
    shown, more = keys.found(made, "")
    assert (len(shown), more) == (24, 76)
    assert [key.service for key in keys.found(made, " SERVICE-42 ")[0]] == ["service-42"]
    assert keys.found(made, "nothing") == ((), 0)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("platform", "Platform-managed"), ("aws-kms", "BYOK"), ("pkcs11", "HYOK"), ("openbao", "HYOK")],
)
def test_one_choice_is_in_force_and_all_answer_the_same_questions(mode: str, name: str) -> None:
    choices = root_choices.choices(mode)
    assert [choice.name for choice in choices if choice.in_force] == [name]
    assert len({tuple(question for question, _ in choice.facts) for choice in choices}) == 1


def test_every_action_says_what_happens_and_whether_it_can_be_undone() -> None:
    assert {action.name for action in ACTIONS} == set(KeyAction)
    assert all(action.happens.endswith(".") and action.undone.endswith(".") for action in ACTIONS)


def test_everything_is_offered_somewhere_but_what_undoes_something_else() -> None:
    by_name = {offer.action.name: offer for offer in offers(State.ACTIVE, ALL)}
    undo = {KeyAction.RESUME, KeyAction.UNLOCK, KeyAction.RESTORE}
    assert {name for name, offer in by_name.items() if offer.available} == WHERE.keys() - undo == set(KeyAction) - undo
    assert by_name[KeyAction.OFFBOARD].words == "Available on the page Settings."
    assert by_name[KeyAction.COMPROMISE].words == "Available above, at the tenant key and at each service key."
    assert by_name[KeyAction.LOCK].words == "Available above, under Stop and start."
    assert by_name[KeyAction.DISCONNECT].words == "Available on the page Services."


def test_an_action_is_offered_to_those_who_may_where_the_state_allows_it() -> None:
    def words(state: State, permissions: frozenset[Permission]) -> str:
        return next(offer.words for offer in offers(state, permissions) if offer.action.move is Transition.SUSPEND)

    assert words(State.ACTIVE, ALL) == "Available above, under Stop and start."
    assert words(State.LOCKED, ALL) == "Not while the tenant is locked."
    assert words(State.ACTIVE, frozenset({Permission.VIEW})) == "Your role does not include it."


@pytest.mark.parametrize(
    ("lock", "possible"),
    [
        (LockReason.SWITCH, {KeyAction.UNLOCK}),
        # Its credentials may have ended and be given anew; and it can be locked here as well, to stay so.
        (LockReason.ROOT_KEY, {KeyAction.LOCK, KeyAction.CHANGE_ROOT_KEY}),
    ],
)
def test_what_a_locked_tenant_is_offered_is_what_the_page_lets_do(lock: LockReason, possible: set[KeyAction]) -> None:
    offered = {offer.action.name for offer in offers(State.LOCKED, ALL, [lock]) if offer.available}
    assert offered - {KeyAction.DISCONNECT, KeyAction.OFFBOARD} == possible
