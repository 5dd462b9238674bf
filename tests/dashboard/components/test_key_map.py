"""The key map: what it states about each key, and what the chart draws."""

import pytest

from core.keys.rotation import KeyState
from core.services import ServiceState
from core.tenants.lifecycle import State
from dashboard.components import key_map
from dashboard.components.key_map import DRAWN, KeyMap, KeyStatus
from database.keys import KeyRow, KeyVersionRow
from tests.dashboard.held import NOW, TENANT, a_key, a_service

L2 = KeyRow("L2-acme-primary", "L2", 3, NOW, 3, NOW)


def a_map(*keys: KeyVersionRow, health: str = "ok", state: State = State.ACTIVE) -> KeyMap:
    return key_map.key_map(TENANT._replace(state=state), [L2], keys, [], health)


def many(number: int) -> KeyMap:
    return a_map(*(a_key(f"service-{one:03}") for one in range(number)))


def arrows(one: KeyMap) -> set[tuple[str, str]]:
    series = key_map.options(one)["series"][0]
    names = {node["id"]: node["label"]["formatter"] for node in series["data"]}
    return {(names[link["source"]], names[link["target"]]) for link in series["links"]}


def test_root_key_and_tenant_key_both_point_to_each_service_key_and_not_to_each_other() -> None:
    assert arrows(a_map(a_key("ledger"), a_key("orders"))) == {
        ("Root key", "ledger"),
        ("Root key", "orders"),
        ("Tenant key", "ledger"),
        ("Tenant key", "orders"),
    }


def test_the_text_states_the_same_facts_as_the_chart() -> None:
    one = a_map(a_key("orders"), a_key("orders", 2), a_key("a-service-with-a-very-long-name"))
    names = [node["name"] for node in key_map.options(one)["series"][0]["data"]]
    assert "orders: version 2, Encrypt + decrypt" in names
    assert "Tenant key: version 3" in names
    assert key_map.in_words(one) == (
        "Root key: Platform-Managed (default).",
        "Tenant key: `L2-acme-primary`, version 3. It never leaves the key server.",
        "Both wrap each service key. Both are required to unwrap it.",
        "`a-service-with-a-very-long-name`: version 1, Encrypt + decrypt.",
        "`orders`: version 2, Encrypt + decrypt.",
    )
    assert key_map.summary(one) == (
        "2 service keys are wrapped by both the root key and the tenant key: 2 encrypt + decrypt."
    )


def test_missing_keys_are_named() -> None:
    nothing = key_map.key_map(TENANT, [], [], [])
    assert "not created yet" in key_map.summary(nothing)
    assert "not created yet" in "".join(key_map.in_words(nothing))
    assert "there is no service key yet" in key_map.summary(a_map())
    assert "none yet" in "".join(key_map.in_words(a_map()))
    assert arrows(a_map()) == set()


@pytest.mark.parametrize(
    ("states", "tenant", "service", "shown"),
    [
        ([KeyState.DEACTIVATED, KeyState.ACTIVE], State.ACTIVE, ServiceState.CONNECTED, KeyStatus.ENCRYPTS),
        ([KeyState.ACTIVE], State.SUSPENDED, ServiceState.CONNECTED, KeyStatus.DECRYPTS),
        ([KeyState.DEACTIVATED], State.ACTIVE, ServiceState.CONNECTED, KeyStatus.DECRYPTS),
        ([KeyState.COMPROMISED], State.ACTIVE, ServiceState.CONNECTED, KeyStatus.COMPROMISED),
        ([KeyState.ACTIVE], State.ACTIVE, ServiceState.DISCONNECTED, KeyStatus.UNUSED),
        ([KeyState.ACTIVE], State.LOCKED, ServiceState.CONNECTED, KeyStatus.LOCKED),
        ([KeyState.ACTIVE], State.LEAVING, ServiceState.DISCONNECTED, KeyStatus.LOCKED),
    ],
)
def test_the_state_of_a_key_follows_from_tenant_service_and_versions(
    states: list[KeyState], tenant: State, service: ServiceState, shown: KeyStatus
) -> None:
    versions = [a_key("orders", number)._replace(state=state) for number, state in enumerate(states, 1)]
    assert key_map.key_status(tenant, a_service("orders", service), versions) is shown


def test_no_key_of_a_locked_tenant_is_drawn_as_usable() -> None:
    usable = {node["itemStyle"]["color"] for node in key_map.options(a_map(a_key("a")))["series"][0]["data"][:1]}
    locked = {
        node["itemStyle"]["color"]
        for node in key_map.options(a_map(a_key("a"), state=State.LOCKED))["series"][0]["data"][:1]
    }
    assert usable.isdisjoint(locked)


def test_many_service_keys_are_drawn_up_to_a_limit_and_all_are_named_in_the_text() -> None:
    labels = [node["label"]["formatter"] for node in key_map.options(many(50))["series"][0]["data"]]
    assert labels[DRAWN - 1 : DRAWN + 1] == ["service-011", "and 38 more"]
    assert "service-012" not in labels
    assert len(key_map.in_words(many(50))) == 53
    assert key_map.height(many(50)) == key_map.height(many(500)) < 360
    assert "50 service keys" in key_map.summary(many(50))


def test_a_click_names_its_service_and_other_nodes_name_none() -> None:
    one = many(50)
    assert key_map.service_at(one, 3) == "service-003"
    assert key_map.service_at(one, DRAWN) is None
    assert key_map.service_at(one, DRAWN + 1) is None
    assert key_map.service_at(a_map(), 0) is None


def test_a_selected_service_beyond_the_limit_is_drawn_and_can_be_clicked() -> None:
    one = many(50)
    labels = [node["label"]["formatter"] for node in key_map.options(one, "service-042")["series"][0]["data"]]
    assert labels[DRAWN - 2 : DRAWN + 1] == ["service-010", "service-042", "and 38 more"]
    assert key_map.service_at(one, DRAWN - 1, "service-042") == "service-042"


def test_the_selected_service_and_a_failing_root_key_are_marked() -> None:
    nodes = {
        node["id"]: node["itemStyle"]
        for node in key_map.options(a_map(a_key("a"), a_key("b")), "b")["series"][0]["data"]
    }
    assert "borderWidth" in nodes["service/b"]
    assert "borderWidth" not in nodes["service/a"]
    failing = a_map(a_key("a"), health="root_key_disabled")
    assert "reports `root_key_disabled`" in key_map.in_words(failing)[0]
    drawn = {node["id"]: node["itemStyle"] for node in key_map.options(failing)["series"][0]["data"]}
    assert drawn["root"] != nodes["root"]
    assert drawn["tenant"] == nodes["tenant"]


def test_an_unknown_provider_is_shown_by_its_name() -> None:
    assert key_map.mode("something-new") == "something-new"
