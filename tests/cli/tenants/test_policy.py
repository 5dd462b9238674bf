"""`openkcmctl tenant policy`: output, changes, and changes that need an approval."""

import pytest

from core.errors.tenants import ApprovalRequired, PolicyRefused
from openkcm.errors import OpenKcmError
from tests.dashboard.scene import ACME

DEFAULTS = {
    "tenant_id": ACME,
    "tenant_key_days": 365,
    "service_key_days": 90,
    "four_eyes": [],
    "revoked_keys_readable": False,
    "resources_recorded": False,
}


def test_policy_without_an_option_shows_it_and_sends_no_request(operator_cli) -> None:
    assert operator_cli.run("tenant", "policy", ACME) == DEFAULTS
    shown = operator_cli.invoke("tenant", "policy", ACME).stdout
    assert "365 days" in shown
    assert "nothing" in shown
    assert operator_cli.gateway.asked == []


def test_each_option_changes_only_its_value(operator_cli) -> None:
    changed = operator_cli.run("tenant", "policy", ACME, "--service-key-days", "30")
    assert changed == DEFAULTS | {"service_key_days": 30}
    changed = operator_cli.run("tenant", "policy", ACME, "--tenant-key-days", "200", "--four-eyes", "offboard, lock")
    assert changed == DEFAULTS | {"tenant_key_days": 200, "service_key_days": 30, "four_eyes": ["lock", "offboard"]}
    assert "lock, offboard" in operator_cli.invoke("tenant", "policy", ACME).stdout


@pytest.mark.parametrize(("option", "readable", "says"), [("", True, "yes"), ("no-", False, "no")])
def test_revoked_keys_are_readable_only_by_an_option(operator_cli, option, readable, says) -> None:
    changed = operator_cli.run("tenant", "policy", ACME, f"--{option}revoked-keys-readable")
    assert changed == DEFAULTS | {"revoked_keys_readable": readable}
    assert operator_cli.run("tenant", "policy", ACME, "--service-key-days", "90") == changed
    shown = operator_cli.invoke("tenant", "policy", ACME).stdout.splitlines()
    [line] = [one for one in shown if "revoked" in one]
    assert line.split()[-1] == says


@pytest.mark.parametrize(("option", "recorded", "says"), [("", True, "yes"), ("no-", False, "no")])
def test_resources_are_recorded_only_by_an_option(operator_cli, option, recorded, says) -> None:
    changed = operator_cli.run("tenant", "policy", ACME, f"--{option}resources-recorded")
    assert changed == DEFAULTS | {"resources_recorded": recorded}
    assert operator_cli.run("tenant", "policy", ACME, "--service-key-days", "90") == changed
    shown = operator_cli.invoke("tenant", "policy", ACME).stdout.splitlines()
    [line] = [one for one in shown if "resource" in one]
    assert line.split()[-1] == says


def test_a_policy_with_approvals_cannot_be_changed_by_a_command(operator_cli) -> None:
    operator_cli.run("tenant", "policy", ACME, "--four-eyes", "offboard")
    for words in (("--four-eyes", "none"), ("--service-key-days", "30")):
        with pytest.raises(OpenKcmError) as refused:
            operator_cli.run("tenant", "policy", ACME, *words)
        assert refused.value.code == ApprovalRequired.code
    assert operator_cli.run("tenant", "policy", ACME)["four_eyes"] == ["offboard"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tenant-key-days", "29"), "30 to 730"),
        (("--service-key-days", "366"), "7 to 365"),
        (("--four-eyes", "everything"), "root-key-to-platform"),
    ],
)
def test_a_value_out_of_bounds_is_rejected_with_the_bounds_and_without_a_request(operator_cli, words, says) -> None:
    with pytest.raises(PolicyRefused) as refused:
        operator_cli.run("tenant", "policy", ACME, *words)
    assert says in refused.value.hint
    assert operator_cli.gateway.asked == []


def test_lock_by_one_person_is_rejected_where_an_approval_is_required(operator_cli) -> None:
    operator_cli.run("tenant", "policy", ACME, "--four-eyes", "lock")
    with pytest.raises(OpenKcmError) as refused:
        operator_cli.run("tenant", "lock", ACME, "--confirm", ACME)
    assert refused.value.code == ApprovalRequired.code
    assert operator_cli.run("tenant", "show", ACME)["state"] == "active"
