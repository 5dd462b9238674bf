"""The page Keys as values: the rows of the service keys, who can open what, and the effect of each action."""

from dataclasses import replace

import pytest

from core.keys.root_keys import RootKeyMode
from core.keys.rotation import KeyState
from core.services import ServiceState
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from dashboard.components.key_actions import ACTIONS, KeyAction
from dashboard.components.key_map import KeyStatus
from dashboard.keys import view
from dashboard.keys.access_view import NO, Access, access
from dashboard.keys.view import Facts, ServiceKey
from dashboard.root_keys import guides
from database.keys import KeyVersionRow
from database.services.managed_objects import ObjectCountRow
from database.usage import UsageCount
from tests.dashboard.held import DAY, HOUR, NOW, TENANT, a_key, a_service, some_use

POLICY = TenantPolicy()


def a_version(version: int, state: KeyState = KeyState.ACTIVE, service: str = "orders") -> KeyVersionRow:
    return a_key(service, version)._replace(state=state, created_at=NOW - 40 * DAY)


def one_row(*versions: KeyVersionRow, state: State = State.ACTIVE, **changed: object) -> ServiceKey:
    facts = Facts(TENANT._replace(state=state), POLICY, [a_service("orders", last_seen_at=None)], versions)
    [key] = view.service_keys(replace(facts, **changed), NOW)
    return key


def test_the_root_key_wraps_service_keys_in_versions_so_that_both_numbers_are_named() -> None:
    assert view.wrapped_keys(TENANT, []) == "Wraps no service key yet."
    versions = [a_version(1, KeyState.DESTROYED), a_version(2, KeyState.DEACTIVATED), a_version(3)]
    other = a_version(1, service="ledger")
    assert view.wrapped_keys(TENANT, [*versions, other]) == "Wraps 2 service keys in 3 versions."


@pytest.mark.parametrize("state", [state for state in State if state not in {State.ACTIVE, State.SUSPENDED}])
def test_a_root_key_that_cannot_decrypt_is_not_shown_as_wrapping(state: State) -> None:
    assert "wraps" not in view.wrapped_keys(TENANT._replace(state=state), [a_version(1)]).lower()


def test_a_row_shows_version_state_rotation_and_protected_data() -> None:
    versions = [
        a_version(1, KeyState.DEACTIVATED),
        a_version(2)._replace(activated_at=NOW - 32 * DAY),
    ]
    objects = [ObjectCountRow("orders", 2, 1200), ObjectCountRow("orders", 5, 9), ObjectCountRow("users", 2, 7)]
    key = one_row(*versions, objects=objects, fields={"orders": 3})
    assert (key.kind, key.version, key.old) == ("MongoDB", "2 (1 old)", (1,))
    assert key.status is KeyStatus.ENCRYPTS
    assert (key.age, key.cryptoperiod, key.due) == (32, 90, NOW + 58 * DAY)
    assert key.protects == "1,200 KMIP objects and 3 fields"


def test_a_row_offers_no_old_version_where_none_exists() -> None:
    assert one_row(a_version(1)).old == ()
    assert one_row(a_version(1, KeyState.DESTROYED), a_version(2)).old == ()
    assert one_row(a_version(2), a_version(3, KeyState.PREPARED)).old == ()
    assert one_row(a_version(1, KeyState.COMPROMISED), a_version(2)).old == (1,)


def test_a_compromised_old_version_is_shown_beside_the_state_of_the_key() -> None:
    key = one_row(a_version(1, KeyState.COMPROMISED), a_version(2))
    assert key.states == ("Encrypt + decrypt", "Old version compromised")
    assert one_row(a_version(1)).states == ("Encrypt + decrypt",)


def test_no_key_of_a_locked_tenant_encrypts() -> None:
    assert one_row(a_version(1), state=State.LOCKED).states == ("Locked",)
    assert one_row(a_version(1), state=State.SUSPENDED).states == ("Decrypt only",)


def test_the_key_of_a_disconnected_service_has_no_rotation_due() -> None:
    key = one_row(a_version(1), services=[a_service("orders", ServiceState.DISCONNECTED)])
    assert (key.due, key.age, key.status) == (None, None, KeyStatus.UNUSED)


def test_the_last_use_is_an_answered_request_or_a_contact() -> None:
    assert one_row(a_version(1), recent=[some_use("orders", 5, 5)]).last_used is None
    assert one_row(a_version(1), recent=[some_use("orders", 5, 4)]).last_used == NOW - 2 * HOUR
    seen = [a_service("orders", last_seen_at=NOW - HOUR)]
    assert one_row(a_version(1), services=seen, recent=[some_use("orders")]).last_used == NOW - HOUR


def test_the_line_of_requests_has_a_value_for_each_of_the_last_thirty_days() -> None:
    today = NOW.date()
    days = [UsageCount(NOW, "orders", 5), UsageCount(NOW - 29 * DAY, "orders", 2), UsageCount(NOW, "users", 9)]
    assert one_row(a_version(1), days=days).requests == (2, *(0,) * 28, 5)
    assert one_row(a_version(1)).requests == (0,) * 30
    assert view.first_day(today) == today - 29 * DAY


def test_the_accessible_name_counts_the_states() -> None:
    keys = view.service_keys(Facts(TENANT, POLICY, [], [a_version(1), a_version(1, service="ledger")]), NOW)
    assert view.summary(keys) == "2 service keys: 2 encrypt + decrypt. Select a row for its actions."


def rights(mode: str = "platform", policy: TenantPolicy = POLICY, state: State = State.ACTIVE) -> dict[str, Access]:
    return {row.who: row for row in access(TENANT._replace(root_key_mode=mode, state=state), policy)}


def test_with_the_platforms_root_key_the_operator_could_read() -> None:
    rows = rights()
    assert rows["Platform operator"].read == "Possible: holds root key and tenant key"
    assert not [who for who in rows if who.startswith("Holder of the root key")]


@pytest.mark.parametrize("mode", [mode for mode in RootKeyMode if mode is not RootKeyMode.PLATFORM])
def test_with_a_customers_root_key_its_holder_reads_nothing_and_can_stop_the_platform(mode: RootKeyMode) -> None:
    rows = rights(mode)
    assert rows["Platform operator"].read == "Only while your root key permits it"
    [holder] = [row for who, row in rows.items() if who.startswith("Holder of the root key")]
    assert (holder.read, holder.encrypt, holder.lock) == (NO, NO, "Yes, by disabling the key")


def test_people_of_the_dashboard_never_read_or_encrypt() -> None:
    people = [row for who, row in rights().items() if who.endswith("your organization")]
    assert len(people) == 2
    assert {(row.read, row.encrypt) for row in people} == {(NO, NO)}


def test_a_required_second_person_is_named_for_administrators_and_operators() -> None:
    rows = rights(policy=TenantPolicy(four_eyes=frozenset({Action.LOCK})))
    assert rows["Key administrators of your organization"].lock == "Yes, with the approval of a second person"
    assert rows["Platform operator"].lock.startswith("Only approved by your organization")
    assert {rights()[who].lock for who in rows if who != "Your services" and "Auditors" not in who} == {"Yes"}


@pytest.mark.parametrize(
    ("state", "reads", "encrypts"),
    [(State.ACTIVE, True, True), (State.SUSPENDED, True, False), (State.LOCKED, False, False)],
)
def test_services_read_and_encrypt_as_the_state_of_the_tenant_permits(
    state: State, *, reads: bool, encrypts: bool
) -> None:
    row = rights(state=state)["Your services"]
    assert (row.read == "Own data only", row.encrypt == "Own data only") == (reads, encrypts)


def test_all_providers_answer_the_same_questions() -> None:
    assert len({tuple(question for question, _ in guides.facts(mode)) for mode in RootKeyMode}) == 1


def test_every_action_states_its_effect_and_whether_it_can_be_undone() -> None:
    assert {action.name for action in ACTIONS} == set(KeyAction)
    assert all(action.happens.endswith(".") and action.undone.endswith(".") for action in ACTIONS)
