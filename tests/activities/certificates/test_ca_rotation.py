"""A tenant CA is rotated with an overlap, ends after its last certificate, and publishes its CRL."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from cryptography import x509

from core.errors.platform import ConflictingResource, Superseded
from core.errors.services import CaRotationInProgress
from core.errors.tenants import TenantNotOperational
from core.messages.services import AuthorityPlan
from core.tenants.lifecycle import State, Transition
from tests.activities.certificates.rolling import STEPS, Roll
from tests.activities.dying import after_effect, every_effect, perform_with_crash
from tests.activities.services.connecting import SERVICE
from vault.pki.authorities import PkiAuthorities

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def issued_by(roll: Roll) -> str:
    leaf = roll.connection.leaf
    assert leaf is not None
    issuer = next(row for row in roll.authorities if row.serial == leaf.authority)
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer.certificate_pem.encode()))
    return issuer.state.value


def test_rotation_issues_new_leaves_from_the_new_ca_and_the_route_names_both(roll: Roll) -> None:
    first = roll.authorities[0]
    roll.roll()
    assert roll.states == {2: "current", 1: "former"}
    second = roll.authorities[0]
    assert (roll.route.issuer_fingerprint, roll.route.former_issuer_fingerprint) == (
        second.fingerprint,
        first.fingerprint,
    )
    assert issued_by(roll) == "former"
    assert roll.unrenewed() == (SERVICE,)
    with pytest.raises(CaRotationInProgress):
        roll.plan(2)
    roll.connection.certify(roll.connection.plan_renewal())
    assert issued_by(roll) == "current"
    assert roll.unrenewed() == ()
    roll.tenant.assert_audited_once()


def test_former_ca_issues_leaves_until_the_activation_of_the_new_one(roll: Roll) -> None:
    plan = roll.plan()
    roll.run("prepare-ca", plan)
    assert roll.states == {2: "prepared", 1: "current"}
    assert roll.route.former_issuer_fingerprint is None
    roll.connection.certify(roll.connection.plan_renewal())
    assert issued_by(roll) == "current"


def test_former_ca_ends_when_its_last_leaf_has_expired(roll: Roll) -> None:
    first = roll.authorities[0]
    roll.roll()
    roll.tenant.run_platform("retire-cas")
    assert roll.states == {2: "current", 1: "former"}
    roll.connection.disconnect()  # a revoked certificate stays in the CRL until it expires
    roll.tenant.run_platform("retire-cas")
    assert roll.states == {2: "current", 1: "former"}
    roll.age(73 * HOUR)
    roll.tenant.run_platform("retire-cas")
    assert roll.states == {2: "current", 1: "ended"}
    assert roll.route.former_issuer_fingerprint is None
    last = next(row for row in roll.lists if row.authority == first.serial)
    assert last.next_update > last.this_update + 300 * DAY
    assert roll.listed(first.serial) == set()
    roll.roll(2)
    assert roll.states == {3: "current", 2: "former", 1: "ended"}
    roll.tenant.assert_audited_once()


def test_ca_is_due_with_a_third_of_its_lifetime_left_and_not_during_an_overlap(roll: Roll) -> None:
    def due() -> bool:
        return roll.tenant.tenant_id in roll.tenant.run_platform("find-due-cas").tenants

    roll.age(240 * DAY)
    assert not due()
    roll.age(5 * DAY)
    assert due()
    roll.connection.move(Transition.LOCK)
    assert due()  # also when locked
    roll.roll()
    assert not due()
    roll.connection.move(Transition.LEAVE)
    assert not due()


def test_ca_whose_leaves_are_not_valid_is_never_activated(roll, monkeypatch) -> None:
    plan = roll.plan()
    roll.run("prepare-ca", plan)
    issue = PkiAuthorities.issue
    monkeypatch.setattr(
        PkiAuthorities,
        "issue",
        lambda self, authority, *more: issue(self, replace(authority, key_version=1), *more),
    )
    with pytest.raises(ConflictingResource):
        roll.run("verify-ca", plan)
    assert roll.abandon(plan).code == "vault_refused"
    assert roll.states == {2: "ended", 1: "current"}
    monkeypatch.undo()
    with pytest.raises(ConflictingResource):
        roll.run("activate-ca", plan)
    assert roll.plan(2).version == 3
    roll.roll(3)
    assert roll.states == {3: "current", 2: "ended", 1: "former"}


def test_prepared_ca_is_used_by_the_next_rotation_and_cannot_be_abandoned_once_active(roll: Roll) -> None:
    roll.run("prepare-ca", roll.plan())
    plan = roll.plan(2)
    for name in STEPS:
        roll.run(name, plan, 2)
    assert not roll.abandon(plan, 2).code
    assert roll.states == {2: "current", 1: "former"}


def test_ca_of_an_offboarding_tenant_is_not_rotated(roll: Roll) -> None:
    plan = roll.plan()
    roll.run("prepare-ca", plan)
    roll.connection.move(Transition.LEAVE)
    for step in (partial(roll.plan, 2), partial(roll.run, "activate-ca", plan)):
        with pytest.raises(TenantNotOperational, match=State.LEAVING):
            step()


def test_leaf_signed_before_an_activation_is_not_recorded_after_it(roll: Roll) -> None:
    """Otherwise the former CA could have a leaf that ends after the overlap."""
    plan = roll.plan()
    roll.run("prepare-ca", plan)
    renewal = roll.connection.plan_renewal()
    activate = partial(roll.run, "activate-ca", plan)
    with (
        after_effect(roll.tenant, 2, activate),
        pytest.raises(Superseded, match="rotated meanwhile"),
    ):  # after the signature
        roll.connection.run("issue-certificate", renewal)
    roll.connection.run("issue-certificate", renewal)
    assert issued_by(roll) == "current"


# The minimum number of effects (Vault responses, commits) of each step, so that each crash occurs.
EFFECTS = {"plan": 1, "prepare-ca": 6, "verify-ca": 2, "activate-ca": 1, "publish": 6, "end": 3}


@pytest.mark.parametrize(("name", "effect"), every_effect(EFFECTS, "activate-ca"))
def test_retry_completes_a_step_that_crashed_after_an_effect(roll: Roll, name: str, effect: int) -> None:
    steps: dict[str, Callable[[], object]] = {
        "plan": roll.plan,
        **{step: partial(roll.run, step, AuthorityPlan(version=2)) for step in STEPS},
        "publish": roll.publish,
    }
    perform_with_crash(roll.tenant, steps, name, effect)
    roll.age(73 * HOUR)
    perform_with_crash(roll.tenant, {"end": lambda: roll.tenant.run_platform("retire-cas")}, name, effect)
    assert roll.states == {2: "current", 1: "ended"}
    assert len(roll.authorities) == 2
    assert {row.authority for row in roll.lists} == {row.serial for row in roll.authorities}
    roll.tenant.assert_audited_once()


def test_crl_of_each_ca_contains_revoked_unexpired_certificates(roll: Roll) -> None:
    (first,) = roll.authorities
    roll.publish()
    assert roll.listed(first.serial) == set()
    leaf = roll.connection.leaf
    assert leaf is not None
    roll.connection.disconnect()
    roll.publish()
    assert roll.listed(first.serial) == {leaf.serial.lstrip("0")}
    assert [row.number for row in roll.lists] == [2]
    roll.roll()
    roll.publish()
    assert sorted(row.number for row in roll.lists) == [3, 4]
    second = next(row for row in roll.authorities if row.serial != first.serial)
    assert roll.listed(second.serial) == set()
    roll.age(73 * HOUR)
    roll.publish()
    assert roll.listed(first.serial) == set()


def test_sweep_publishes_only_missing_incomplete_or_half_expired_crls(roll: Roll) -> None:
    def number() -> int:
        roll.tenant.run_platform("publish-revocation-lists")
        return roll.lists[0].number

    assert [number(), number()] == [1, 1]
    roll.connection.disconnect()
    assert [number(), number()] == [2, 2]
    roll.age(13 * HOUR)
    assert [number(), number()] == [3, 3]
    published = roll.records("certificate.crl_published")
    assert [record["details"]["number"] for record in published] == ["1", "2", "3"]


def test_concurrent_crls_never_share_a_number(roll: Roll) -> None:
    with after_effect(roll.tenant, 3, roll.publish), pytest.raises(Superseded):
        roll.publish()
    roll.publish()
    assert [row.number for row in roll.lists] == [2]


def test_disabled_ca_stops_neither_the_crl_sweep_nor_the_end_of_a_former_ca(roll: Roll) -> None:
    roll.roll()
    roll.tenant.parts.vault.delete(f"transit/keys/ca-{roll.tenant_id}/soft-delete")
    roll.tenant.run_platform("publish-revocation-lists")
    assert roll.lists == []
    assert roll.states == {2: "current", 1: "former"}
    roll.age(73 * HOUR)
    roll.tenant.run_platform("retire-cas")
    assert roll.states == {2: "current", 1: "ended"}
