"""Preflight and change of root keys on a real database: no credential is stored, and each rule has its text."""

import traceback
from dataclasses import replace
from typing import cast

import pytest

from core.errors.keys import RootKeyRefused
from core.errors.platform import TemporalUnavailable
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import State
from dashboard.root_keys import actions as root_key_actions
from dashboard.root_keys.actions import RootKeyChangeRequest
from database.connection.database import Database
from tests.dashboard.scene import ACME, KEY_ARN, ROLE_ARN, Scene, everything_stored
from tests.dashboard.seats import a_page_context
from workflows.client.updates import OperationTimeout, UpdateRejected

SECRET = "hvs.very-secret-0123456789"
BAO = {"provider": "openbao", "address": "https://bao.acme.example:8200", "mount": "transit", "key": "acme"}
AWS = {"provider": "aws-kms", "key_arn": KEY_ARN, "role_arn": ROLE_ARN}


def a_wish(scene: Scene) -> RootKeyChangeRequest:
    return root_key_actions.wishes(scene.page_context(), BAO, {"token": SECRET})[0]


def test_credentials_are_in_no_row_no_audit_record_and_no_error(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    wish = a_wish(scene)
    assert SECRET not in repr(wish)
    scene.gateway.fails = TemporalUnavailable()  # the request stays stored
    with pytest.raises(TemporalUnavailable) as unavailable:
        root_key_actions.check(scene.page_context(), wish)
    assert SECRET not in "".join(traceback.format_exception(unavailable.value))
    stored = everything_stored(scene.field)
    assert wish.request_id in stored
    assert SECRET not in stored
    intended, failed = [one["details"] for one in scene.records() if one["name"] == "root_key.preflight_requested"]
    assert intended == {"provider": "openbao", "request": wish.request_id}
    assert failed["code"] == "temporal_unavailable"


def test_sealed_credentials_are_accepted_for_their_own_request_only(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    first, second, *_ = root_key_actions.wishes(scene.page_context(), BAO, {"token": SECRET})
    with pytest.raises(UpdateRejected) as refused:
        root_key_actions.check(scene.page_context(), replace(first, sealed=second.sealed))
    assert refused.value.code == RootKeyRefused.code


@pytest.mark.parametrize(
    ("fields", "secrets", "said"),
    [
        ({"provider": "aws-kms"}, {}, "key_arn: Field required"),
        (AWS | {"key_arn": "alias/mine"}, {}, "key_arn: a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, not an alias"),
        (BAO | {"address": "ftp://bao"}, {"token": SECRET}, "address: an address such as https://vault.example.com"),
        (BAO | {"address": "https://bao.example.com:82000"}, {"token": SECRET}, "address: an address such as"),
        (BAO | {"ca_pem": SECRET}, {"token": SECRET}, "ca_pem: CA certificates in PEM"),
        (BAO, {"token": f"{SECRET}\N{EURO SIGN}"}, "token: ASCII characters without spaces or line breaks"),
        (BAO, {}, "openbao needs token"),
        (BAO | {"role_id": "r"}, {"token": SECRET}, "openbao needs secret id"),
        ({"provider": "pkcs11", "token": "t", "key": "k"}, {}, "pkcs11 needs pin"),
        (AWS | {"role_arn": ""}, {"access_key_id": SECRET}, "needs access key id and secret access key"),
        ({"provider": "platform"}, {"token": SECRET}, "needs no credentials"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule_and_without_the_credential(fields, secrets, said) -> None:
    with pytest.raises(RootKeyRefused) as refused:
        root_key_actions.wishes(a_page_context(cast("Database", None)), fields, secrets)
    assert said in refused.value.message
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_check_without_a_recorded_result_is_not_a_success(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.gateway.preflight_root_key = lambda *_: None
    with pytest.raises(OperationTimeout):
        root_key_actions.check(scene.page_context(), a_wish(scene))


def test_a_locked_tenant_can_check_a_root_key_and_not_change_it(scene: Scene) -> None:
    scene.tenant(State.LOCKED)
    assert root_key_actions.check(scene.page_context(), a_wish(scene)) == []
    with pytest.raises(TenantNotOperational):
        root_key_actions.change(scene.page_context(), a_wish(scene))
    with scene.dashboard.tenant_tx(ACME) as tx:
        assert tx.root_keys.changes() == []


@pytest.mark.parametrize(
    ("provider", "changed", "kept"),
    [
        ("openbao", "key", True),
        ("openbao", "mount", True),
        ("openbao", "address", False),
        ("openbao", "ca_pem", False),
        ("openbao", "role_id", False),
        ("pkcs11", "key", True),
        ("pkcs11", "token", False),
        ("aws-kms", "key_arn", True),
        ("aws-kms", "role_arn", False),
    ],
)
def test_credentials_are_kept_only_for_the_same_destination(provider: str, changed: str, kept: bool) -> None:  # noqa: FBT001 - parameters of a test
    before = {"provider": provider, changed: "one"}
    assert root_key_actions.keeps_credentials(before, before)
    assert root_key_actions.keeps_credentials(before, before | {changed: "two"}) is kept
    other = "platform" if provider != "platform" else "openbao"
    assert not root_key_actions.keeps_credentials(before, {"provider": other})
