"""`openkcmctl tenant policy`: what it shows, what it changes, and what it cannot change alone."""

import pytest

from core.errors.tenants import ApprovalRequired, PolicyRefused
from openkcm.errors import OpenKcmError
from tests.dashboard.scene import ACME

DEFAULTS = {"tenant_id": ACME, "tenant_key_days": 365, "service_key_days": 90, "four_eyes": []}


def test_without_an_option_it_shows_and_asks_nobody(desk) -> None:
    assert desk.run("tenant", "policy", ACME) == DEFAULTS
    shown = desk.invoke("tenant", "policy", ACME).stdout
    assert "365 days" in shown
    assert "nothing" in shown
    assert desk.gateway.asked == []


def test_each_option_changes_what_it_names_and_leaves_the_rest(desk) -> None:
    changed = desk.run("tenant", "policy", ACME, "--service-key-days", "30")
    assert changed == DEFAULTS | {"service_key_days": 30}
    changed = desk.run("tenant", "policy", ACME, "--tenant-key-days", "200", "--four-eyes", "offboard, lock")
    assert changed == {
        "tenant_id": ACME,
        "tenant_key_days": 200,
        "service_key_days": 30,
        "four_eyes": ["lock", "offboard"],
    }
    assert "lock, offboard" in desk.invoke("tenant", "policy", ACME).stdout


def test_the_wall_is_not_taken_down_from_here(desk) -> None:
    desk.run("tenant", "policy", ACME, "--four-eyes", "offboard")
    for words in (("--four-eyes", "none"), ("--service-key-days", "30")):
        with pytest.raises(OpenKcmError) as refused:
            desk.run("tenant", "policy", ACME, *words)
        assert refused.value.code == ApprovalRequired.code
    assert desk.run("tenant", "policy", ACME)["four_eyes"] == ["offboard"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tenant-key-days", "29"), "30 to 730"),
        (("--service-key-days", "366"), "7 to 365"),
        (("--four-eyes", "everything"), "root-key-to-platform"),
    ],
)
def test_what_is_outside_of_the_bounds_is_refused_with_them_and_asks_nobody(desk, words, says) -> None:
    with pytest.raises(PolicyRefused) as refused:
        desk.run("tenant", "policy", ACME, *words)
    assert says in refused.value.hint
    assert desk.gateway.asked == []


def test_locking_alone_is_refused_where_it_takes_two(desk) -> None:
    desk.run("tenant", "policy", ACME, "--four-eyes", "lock")
    with pytest.raises(OpenKcmError) as refused:
        desk.run("tenant", "lock", ACME, "--confirm", ACME)
    assert refused.value.code == ApprovalRequired.code
    assert desk.run("tenant", "show", ACME)["state"] == "active"
