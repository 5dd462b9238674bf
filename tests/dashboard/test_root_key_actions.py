"""Trying and changing root keys on a real database: allowed, on record before and after, no credential anywhere."""

import json
import traceback
from dataclasses import replace

import pytest

from dashboard import root_key_actions
from dashboard.root_key_actions import Wish
from tenancy.errors import ActionRefused, SessionEnded, TemporalUnavailable, TenantClosed, TenantUnknown
from tenancy.lifecycle import State
from tenancy.people import PersonRole
from tenancy.root_key_errors import RootKeyRefused, RootKeyRequestUnknown
from tenancy.root_keys import Problem, RootKeyMode
from tenancy.services import ServiceKind
from tests.dashboard.scene import KEY_ARN, ROLE_ARN, Scene, scene
from workflows.gateway import NotDoneInTime, UpdateRefused

__all__ = ["scene"]

ACME = "acme-corp-12345"
SECRET = "hvs.very-secret-0123456789"
BAO = {"provider": "openbao", "address": "https://bao.acme.example:8200", "mount": "transit", "key": "acme"}
AWS = {"provider": "aws-kms", "key_arn": KEY_ARN, "role_arn": ROLE_ARN}
DENIED = Problem(code="root_key_denied", message="access is denied", hint="grant it")


def a_wish(scene: Scene) -> Wish:
    return root_key_actions.wishes(scene.seat(), BAO, {"token": SECRET})[0]


def audited(scene: Scene, prefix: str = "root_key.") -> list[tuple[str, str, dict[str, str]]]:
    with scene.worker.tenant_tx(ACME) as tx:
        records = [json.loads(record.record) for record in tx.audit.records()]
    return [(one["name"], one["outcome"], one["details"]) for one in records if one["name"].startswith(prefix)]


def everything_stored(scene: Scene) -> str:
    with scene.field.administrator() as administrator:
        tables = administrator.execute(
            "select table_name from information_schema.tables where table_schema = 'okcm' and table_type = 'BASE TABLE'"
        ).fetchall()
        return "\n".join(
            str(row) for (table,) in tables for row in administrator.execute(f"select t::text from okcm.{table} t")
        )


def test_a_check_changes_nothing_and_a_change_is_in_force(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    check, change, *more = root_key_actions.wishes(scene.seat(), BAO, {"token": SECRET})
    assert more
    assert root_key_actions.check(scene.seat(), check) == []
    with scene.dashboard.tenant_tx(ACME) as tx:
        assert tx.root_keys.current() is None
    root_key_actions.change(scene.seat(), change)
    with scene.dashboard.tenant_tx(ACME) as tx:
        key, tenant = tx.root_keys.current(), tx.tenants.get()
    assert key is not None
    assert tenant is not None
    assert (key.mode, tenant.root_key_mode) == (RootKeyMode.OPENBAO, "openbao")
    assert [credentials.token.get_secret_value() for credentials in scene.door.taken] == [SECRET, SECRET]
    assert [(name, outcome) for name, outcome, _ in audited(scene)] == [
        ("root_key.preflight_requested", "intended"),
        ("root_key.preflight_requested", "success"),
        ("root_key.change_requested", "intended"),
        ("root_key.change_requested", "success"),
    ]
    assert audited(scene)[0][2] == {"provider": "openbao", "request": check.request_id}


def test_credentials_are_in_no_row_no_record_and_no_text_of_a_wish(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    wish = a_wish(scene)
    assert SECRET not in repr(wish)
    scene.door.fails = TemporalUnavailable()  # so that what is stored lies there still
    with pytest.raises(TemporalUnavailable) as failed:
        root_key_actions.check(scene.seat(), wish)
    assert SECRET not in "".join(traceback.format_exception(failed.value))
    stored = everything_stored(scene)
    assert wish.request_id in stored
    assert SECRET not in stored
    assert audited(scene)[-1][2]["code"] == "temporal_unavailable"


def test_a_wish_opens_for_its_own_request_alone(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    first, second, *_ = root_key_actions.wishes(scene.seat(), BAO, {"token": SECRET})
    with pytest.raises(RootKeyRefused):
        root_key_actions.check(scene.seat(), replace(first, sealed=second.sealed))


@pytest.mark.parametrize(
    ("fields", "secrets", "said"),
    [
        ({"provider": "aws-kms"}, {}, "key_arn: Field required"),
        (AWS | {"key_arn": "alias/mine"}, {}, "key_arn: a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, not an alias"),
        (BAO | {"address": "ftp://bao"}, {"token": SECRET}, "address: an address such as https://vault.example.com"),
        (BAO, {}, "openbao here needs token"),
        (BAO | {"role_id": "r"}, {"token": SECRET}, "openbao here needs secret id"),
        ({"provider": "pkcs11", "token": "t", "key": "k"}, {}, "pkcs11 here needs pin"),
        (AWS | {"role_arn": ""}, {"access_key_id": SECRET}, "needs access key id and secret access key"),
        ({"provider": "platform"}, {"token": SECRET}, "needs no credentials"),
    ],
)
def test_a_wrong_field_is_said_with_its_rule_and_nothing_is_stored(scene: Scene, fields, secrets, said) -> None:
    scene.tenant(State.ACTIVE)
    with pytest.raises(RootKeyRefused) as refused:
        root_key_actions.wishes(scene.seat(), fields, secrets)
    assert said in refused.value.message
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert scene.door.asked == []


def test_what_a_check_found_is_returned(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.door.problems = [DENIED]
    assert root_key_actions.check(scene.seat(), a_wish(scene)) == [DENIED]


def test_a_change_that_is_refused_leaves_the_former_key_and_says_what_was_found(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.door.problems = [DENIED]
    wish = a_wish(scene)
    with pytest.raises(UpdateRefused) as refused:
        root_key_actions.change(scene.seat(), wish)
    assert refused.value.code == "root_key_denied"
    assert root_key_actions.found(scene.seat(), wish) == [DENIED]
    assert audited(scene)[-1][2]["code"] == "root_key_denied"
    with scene.dashboard.tenant_tx(ACME) as tx:
        assert tx.root_keys.current() is None


def test_a_change_that_takes_long_goes_on_with_the_same_wish(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    for name in ("a", "b"):
        scene.service(name, ServiceKind.MICROSERVICE)
    scene.door.wraps = 1
    wish = a_wish(scene)
    with pytest.raises(NotDoneInTime):
        root_key_actions.change(scene.seat(), wish)
    root_key_actions.change(scene.seat(), wish)
    with scene.dashboard.tenant_tx(ACME) as tx:
        [change] = tx.root_keys.changes()
    assert (change.state, change.wrapped) == ("done", 2)


def test_a_check_that_left_nothing_on_record_is_never_taken_for_a_key_that_works(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.door.preflight = lambda *_: None
    with pytest.raises(NotDoneInTime):
        root_key_actions.check(scene.seat(), a_wish(scene))


def test_back_to_the_platform_takes_no_credentials(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.held_key()
    [wish, *_] = root_key_actions.wishes(scene.seat(), {"provider": "platform"}, {})
    assert wish.sealed is None
    root_key_actions.change(scene.seat(), wish)
    with scene.dashboard.tenant_tx(ACME) as tx:
        assert tx.root_keys.current() is None


@pytest.mark.parametrize("role", [PersonRole.AUDITOR, PersonRole.OPERATOR])
@pytest.mark.parametrize("act", [root_key_actions.check, root_key_actions.change])
def test_who_may_not_manage_keys_is_refused_on_record_and_nothing_is_stored(scene: Scene, role, act) -> None:
    scene.tenant(State.ACTIVE)
    wish = a_wish(scene)
    with pytest.raises(ActionRefused):
        act(scene.seat(ACME, role), wish)
    assert scene.door.asked == []
    assert audited(scene) == []
    [(_, outcome, details)] = audited(scene, "dashboard.action_refused")
    assert outcome == "refused"
    assert details["action"].startswith("root_key.")
    with scene.dashboard.tenant_tx(ACME) as tx, pytest.raises(RootKeyRequestUnknown):
        tx.root_keys.problems(wish.request_id)


def test_a_dialog_that_outlives_its_sign_on_does_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    gone = replace(scene.seat(), present=lambda: False)
    for act in (root_key_actions.check, root_key_actions.change):
        with pytest.raises(SessionEnded):
            act(gone, a_wish(scene))
    assert scene.door.asked == []
    assert audited(scene) == []


@pytest.mark.parametrize("state", [State.LOCKED, State.LEAVING, State.PROVISIONING])
def test_a_tenant_whose_service_keys_do_not_open_changes_nothing(scene: Scene, state: State) -> None:
    scene.tenant(state)
    with pytest.raises(TenantClosed):
        root_key_actions.change(scene.seat(), a_wish(scene))
    assert scene.door.asked == []


def test_a_locked_tenant_can_still_try_a_key(scene: Scene) -> None:
    scene.tenant(State.LOCKED)
    assert root_key_actions.check(scene.seat(), a_wish(scene)) == []


def test_without_a_tenant_there_is_nothing_to_do(scene: Scene) -> None:
    with pytest.raises(TenantUnknown):
        root_key_actions.check(scene.seat(), a_wish(scene))
