"""The texts of the page Keys from rows, and the effect of each action, without a database."""

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


def test_the_root_key_shows_the_number_of_wrapped_service_keys() -> None:
    assert keys.root(TENANT, None, []) == keys.RootKey(
        "Platform-Managed (default)", "root-eu-west-1", "Ready: wraps no service key yet."
    )
    used = keys.root(TENANT, None, [a_key("a"), a_key("a", 2), a_key("b")])
    assert used.state == "Active: wraps 2 service keys."
    own = keys.root(replace(TENANT, root_key_mode="aws-kms"), a_held_key(), [a_key("a")])
    assert (own.mode, own.name) == ("Your own key in AWS KMS (BYOK)", KEY_ARN)


@pytest.mark.parametrize("state", [state for state in State if state not in {State.ACTIVE, State.SUSPENDED}])
def test_a_root_key_that_cannot_decrypt_is_not_shown_as_active(state: State) -> None:
    said = keys.root(replace(TENANT, state=state), None, [a_key("a")]).state
    assert "wraps" not in said


def test_a_service_key_shows_versions_objects_and_last_use() -> None:
    [one] = keys.service_keys(
        [a_service("orders", last_seen_at=NOW - HOUR)],
        held(a_key("orders"), a_key("orders", 2)),
        [ObjectCountRow("orders", 2, 1200), ObjectCountRow("orders", 9, 1), ObjectCountRow("users", 2, 7)],
        [some_use("orders", 10, 3), some_use("users", 99)],
        NOW,
    )
    assert [version.partition(":")[0] for version in one.versions] == ["**Version 2**", "**Version 1**"]
    assert one.objects == "Protects 1,201 KMIP objects: 1,200 active and 1 of another state."
    assert one.used == "Last used 25 Nov 2026, 11:00 UTC (1 hour ago). 7 operations in the last 24 hours."
    assert one.kind == "mongodb"


def test_rejected_requests_are_no_use_of_a_key() -> None:
    [one] = keys.service_keys([a_service("orders")], held(a_key("orders")), [], [some_use("orders", 5, 5)], NOW)
    assert one.used == "Never used."
    assert one.objects == "Protects no KMIP objects."


def test_usage_counts_as_last_use_without_a_stored_contact() -> None:
    [one] = keys.service_keys([], held(a_key("orders")), [], [some_use("orders", 5)], NOW)
    assert "2 hours ago" in one.used
    assert one.kind == ""


def test_keys_are_filtered_by_name_and_limited_to_a_page() -> None:
    made = keys.service_keys([], held(*(a_key(f"service-{number}") for number in range(100))), [], [], NOW)
    shown, more = keys.found(made, "")
    assert (len(shown), more) == (24, 76)
    assert [key.service for key in keys.found(made, " SERVICE-42 ")[0]] == ["service-42"]
    assert keys.found(made, "nothing") == ((), 0)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("platform", "Platform-managed"), ("aws-kms", "BYOK"), ("pkcs11", "HYOK"), ("openbao", "HYOK")],
)
def test_one_provider_is_current_and_all_answer_the_same_questions(mode: str, name: str) -> None:
    choices = root_choices.choices(mode)
    assert [choice.name for choice in choices if choice.in_force] == [name]
    assert len({tuple(question for question, _ in choice.facts) for choice in choices}) == 1


def test_every_action_states_its_effect_and_whether_it_can_be_undone() -> None:
    assert {action.name for action in ACTIONS} == set(KeyAction)
    assert all(action.happens.endswith(".") and action.undone.endswith(".") for action in ACTIONS)


def test_every_action_but_an_undo_is_available_for_an_active_tenant() -> None:
    by_name = {offer.action.name: offer for offer in offers(State.ACTIVE, ALL)}
    undo = {KeyAction.RESUME, KeyAction.UNLOCK, KeyAction.RESTORE}
    assert {name for name, offer in by_name.items() if offer.available} == WHERE.keys() - undo == set(KeyAction) - undo
    assert by_name[KeyAction.OFFBOARD].words == "Available on the page Settings."
    assert by_name[KeyAction.COMPROMISE].words == "Available above, at the tenant key and at each service key."
    assert by_name[KeyAction.LOCK].words == "Available above, under Emergency controls."
    assert by_name[KeyAction.DISCONNECT].words == "Available on the page Services."


def test_an_action_is_available_by_permission_and_state() -> None:
    def words(state: State, permissions: frozenset[Permission]) -> str:
        return next(offer.words for offer in offers(state, permissions) if offer.action.move is Transition.SUSPEND)

    assert words(State.ACTIVE, ALL) == "Available above, under Emergency controls."
    assert words(State.LOCKED, ALL) == "Not available while the tenant is locked."
    assert words(State.ACTIVE, frozenset({Permission.VIEW})) == "Not included in your role."


@pytest.mark.parametrize(
    ("lock", "possible"),
    [
        (LockReason.MANUAL, {KeyAction.UNLOCK}),
        # Expired credentials can be replaced, and the tenant can be locked as well, to stay locked afterwards.
        (LockReason.ROOT_KEY, {KeyAction.LOCK, KeyAction.CHANGE_ROOT_KEY}),
    ],
)
def test_the_available_actions_of_a_locked_tenant_match_its_page(lock: LockReason, possible: set[KeyAction]) -> None:
    offered = {offer.action.name for offer in offers(State.LOCKED, ALL, [lock]) if offer.available}
    assert offered - {KeyAction.DISCONNECT, KeyAction.OFFBOARD} == possible
