"""The isolation checks of a tenant's keys hold for the product, and each is breached without its control."""

import os

import pytest

from activities.isolation import key_suite as key_attacks
from core import names as ids
from core.errors.keys import RootKeyUnreachable
from core.errors.platform import Superseded
from core.tenants.locks import LockReason
from database.platform.scheduled import PlatformQueries
from kms.platform import PlatformRootKey
from tests.activities.isolation.attacking import (
    attacks_of,
    breached,
    forget_key,
    not_checked,
)
from tests.activities.provisioning import MADE, run_steps
from tests.activities.root_keys.changing import SERVICES
from tests.database.builders import an_object
from tests.vault.sharing import a_shared_key, an_imported_key, an_old_version_again, wrapping_key

CLAUSES = {"U1", "U2", "U3", "U4", "U5", "E1", "E2", "A2", "M1"}
WRAPS = {"open-without-root-key", "open-without-tenant-key", "open-wrap-as-another-tenant"}


# ── intact controls ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_checks_hold_in_every_clause_name_no_other_tenant_and_leave_no_state(
    attack, rotating, canary, vault_admin
) -> None:
    found = attack(rotating.tenant_id)
    assert {result.outcome for result in found.values()} == {"held"}
    assert {result.clause for result in found.values()} == CLAUSES
    said = " ".join(result.evidence for result in found.values())
    assert canary.tenant_id not in said
    assert "vault:v" not in said
    before = vault_admin.list("transit/keys"), rotating.states(), vault_admin.read(f"transit/keys/{rotating.l2.name}")
    again = attack(rotating.tenant_id)
    assert breached(again) == not_checked(again) == set()
    after = vault_admin.list("transit/keys"), rotating.states(), vault_admin.read(f"transit/keys/{rotating.l2.name}")
    assert after == before


def test_tenant_without_a_service_has_a_new_wrap_attacked(attack, active) -> None:
    found = attack(active.tenant_id)
    assert breached(found) == not_checked(found) == set()


def test_checks_hold_after_a_rotation_and_with_objects(attack, rotating, field) -> None:
    with field.open("crypto").tenant_tx(rotating.tenant_id) as tx:
        tx.objects.add([an_object(rotating.tenant_id, service=SERVICES[0])])
    rotating.rotate(rotating.wants())
    found = attack(rotating.tenant_id)
    assert breached(found) == not_checked(found) == set()
    assert "(2 to 2)" in found["versions-recorded"].evidence


def test_canary_is_attacked_by_the_second_canary(attack, canary, request_tenant, vault_admin) -> None:
    # The second canary's key may exist from another test of this process.
    mirrors_key = f"transit/keys/{ids.l2_key(ids.MIRROR_TENANT_ID)}"
    if vault_admin.read(mirrors_key) is not None:
        vault_admin.write(f"{mirrors_key}/config", {"deletion_allowed": True})
        vault_admin.delete(mirrors_key)
    alone = attack(canary.tenant_id)
    assert (breached(alone), not_checked(alone)) == (set(), {"open-wrap-as-another-tenant", "open-others-probes"})
    run_steps(request_tenant(ids.MIRROR_TENANT_ID), MADE)
    attack(ids.MIRROR_TENANT_ID)
    found = attack(canary.tenant_id)
    assert breached(found) == not_checked(found) == set()


# ── without a positive control ───────────────────────────────────────────────────────────────────────────────────────


def test_locked_tenant_is_attacked_disabled_key_is_not_checked_and_missing_key_is_a_breach(
    attack, rotating, vault_admin
) -> None:
    rotating.hold(LockReason.MANUAL)
    found = attack(rotating.tenant_id)
    assert (breached(found), not_checked(found)) == (set(), WRAPS)
    rotating.tenant_keys.disable(rotating.tenant_id)
    found = attack(rotating.tenant_id)
    assert breached(found) == set()
    assert not_checked(found) >= {"key-is-derived-and-stays-inside", "open-others-probes", "fingerprint-is-its-own"}
    rotating.tenant_keys.ensure(rotating.tenant_id)
    forget_key(vault_admin, rotating.tenant_id)
    assert breached(attack(rotating.tenant_id)) == {"key-is-derived-and-stays-inside"}


def test_customers_root_key_is_attacked_and_not_checked_when_unreachable(attack, rotating, bao) -> None:
    rotating.to(bao.place(), bao.token())
    found = attack(rotating.tenant_id)
    assert breached(found) == not_checked(found) == set()
    with bao.disabled():
        found = attack(rotating.tenant_id)
    assert (breached(found), not_checked(found)) == (set(), WRAPS)


def test_unreachable_platform_root_key_raises_an_error(attack, rotating, monkeypatch) -> None:
    def away(*_: object) -> bytes:
        raise RootKeyUnreachable

    monkeypatch.setattr(PlatformRootKey, "unwrap", away)
    with pytest.raises(RootKeyUnreachable):
        attack(rotating.tenant_id)


# ── too wide policies at the key server ───────────────────────────────────────────────────────────────────────────────


FLAGS = ("exportable", "allow_plaintext_backup", "deletion_allowed")
LOOSE = [
    ("worker", "transit/backup/*", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/export/*", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/keys/+/import", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/keys/+/import_version", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/restore/*", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/wrapping_key", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/byok-export/*", "bring-in-or-take-out-as-worker"),
    ("worker", "transit/rewrap/L2-*", "open-without-tenant-key"),
    ("worker", "transit/decrypt/L2-*", "open-without-tenant-key"),
    ("tenant", "transit/export/*", "bring-in-or-take-out-as-tenant"),
    ("tenant", "transit/backup/*", "bring-in-or-take-out-as-tenant"),
    ("tenant", "transit/datakey/plaintext/*", "bring-in-or-take-out-as-tenant"),
    ("tenant", "transit/rewrap/L2-openkcm-canary-primary", ""),
    ("tenant", "transit/rewrap/L2-*", "open-wrap-as-another-tenant"),
]


def test_too_wide_policy_is_a_breach(attack, rotating, widen, vault_admin) -> None:
    wrapping_key(vault_admin)  # else the server creates it during an attack, which waits five seconds at most
    for role, path, name in LOOSE:
        with widen(role, f'path "{path}" {{ capabilities = ["create", "read", "update"] }}'):
            assert breached(attack(rotating.tenant_id)) == ({name} if name else set()), (role, path)
        assert breached(attack(rotating.tenant_id)) == set()
    closed = '"min_encryption_version" = []'
    for flag in FLAGS:
        with widen("worker", swap=(closed, f'{closed}\n"{flag}" = []')):
            assert breached(attack(rotating.tenant_id)) == {"let-the-key-be-exported-or-deleted"}, flag


def test_key_created_by_its_use_is_a_breach(attack, rotating, widen, vault_admin) -> None:
    with widen("tenant", swap=('"update"', '"create", "update"')):
        assert breached(attack(rotating.tenant_id)) == {"encrypt-under-a-name-without-a-key"}
    missing_key = "transit/keys/L2-openkcm-absent-primary"
    vault_admin.write("transit/config/keys", {"disable_upsert": False})
    try:
        with widen("tenant", swap=('"update"', '"create", "update"')):
            assert breached(attack(rotating.tenant_id)) == {"encrypt-under-a-name-without-a-key"}
        assert vault_admin.read(missing_key) is not None
    finally:
        vault_admin.write("transit/config/keys", {"disable_upsert": True})
        vault_admin.write(f"{missing_key}/config", {"deletion_allowed": True})
        vault_admin.delete(missing_key)


@pytest.mark.parametrize("flag", FLAGS)  # the first two cannot be undone
def test_key_that_may_be_exported_or_deleted_is_a_breach(attack, active, vault_admin, flag) -> None:
    vault_admin.write(f"transit/keys/{ids.l2_key(active.tenant_id)}/config", {flag: True})
    assert "key-is-derived-and-stays-inside" in breached(attack(active.tenant_id))


# ── shared keys ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shared_key_with_a_removed_fingerprint_is_detected_by_two_checks(
    attack, tenant, request_tenant, vault_admin, field
) -> None:
    other = request_tenant()
    a_shared_key(vault_admin, ids.l2_key(tenant.tenant_id), ids.l2_key(other.tenant_id))
    run_steps(tenant, MADE)
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.key_fingerprint where tenant_id = %s", [tenant.tenant_id])
    run_steps(other, MADE)
    assert "open-others-probes" not in breached(
        attack(other.tenant_id)
    )  # the first tenant has no stored ciphertext yet
    assert breached(attack(tenant.tenant_id)) == {"fingerprint-is-its-own", "open-others-probes"}
    assert breached(attack(other.tenant_id)) == {"open-others-probes"}


def test_same_key_imported_for_two_tenants_is_detected_despite_different_fingerprints(
    attack, tenant, request_tenant, vault_admin, field
) -> None:
    other, material = request_tenant(), os.urandom(32)
    for one in (tenant, other):
        run_steps(one, MADE)
        forget_key(vault_admin, one.tenant_id)
        an_imported_key(vault_admin, ids.l2_key(one.tenant_id), material)
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.key_fingerprint")
    attack(tenant.tenant_id)
    found = attack(other.tenant_id)
    assert breached(found) == {"open-others-probes", "key-was-made-inside"}
    assert found["fingerprint-is-its-own"].outcome == "held"


def test_replaced_key_is_a_breach(attack, active, vault_admin) -> None:
    attack(active.tenant_id)
    forget_key(vault_admin, active.tenant_id)
    vault_admin.write(f"transit/keys/{ids.l2_key(active.tenant_id)}", {"type": "aes256-gcm96", "derived": True})
    assert breached(attack(active.tenant_id)) == {"fingerprint-is-its-own"}


def test_assessment_records_the_fingerprints_of_an_old_installation(attack, active, field) -> None:
    count = "select count(*) from okcm.key_fingerprint where tenant_id = %s"
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.key_fingerprint")
        assert attack(active.tenant_id)["fingerprint-is-its-own"].outcome == "held"
        assert administrator.execute(count, [active.tenant_id]).fetchone() == (1,)


def test_key_is_eventually_tested_with_the_ciphertexts_of_all_others(
    attack, request_tenant, monkeypatch, parts
) -> None:
    monkeypatch.setattr(key_attacks, "_TRIED", 2)
    tenants = [request_tenant() for _ in range(5)]
    for tenant in tenants:
        run_steps(tenant, MADE)
        attack(tenant.tenant_id)
    first, *others = (tenant.tenant_id for tenant in tenants)
    tried = set()
    for _ in range(3):
        before = tenants[0].get(lambda tx: tx.fingerprints.probe()).tried
        found = attack(first)
        assert found["open-others-probes"].evidence.startswith("none of 2 ")
        tried |= {
            other
            for other, _ in [p for p in PlatformQueries(parts.database).key_probes(before, 3) if p[0] != first][:2]
        }
    assert tried >= set(others)


# ── versions and contexts ────────────────────────────────────────────────────────────────────────────────────────────


def test_unrecorded_version_is_a_breach(attack, active, vault_admin) -> None:
    vault_admin.write(f"transit/keys/{ids.l2_key(active.tenant_id)}/rotate", {})
    assert breached(attack(active.tenant_id)) == {"versions-recorded"}


def test_incomplete_rotation_is_not_checked(attack, rotating) -> None:
    step = rotating.wants()
    rotating.step_of("plan-rotation", step)
    rotating.tenant_keys.rotate(rotating.tenant_id, 1)
    found = attack(rotating.tenant_id)
    assert (breached(found), not_checked(found)) == (set(), {"versions-recorded"})
    rotating.add_service("late")
    found = attack(rotating.tenant_id)
    assert (breached(found), not_checked(found)) == (set(), {"versions-recorded"})
    rotating.give_up(step, "key_unavailable", "rotate-tenant-key")
    found = attack(rotating.tenant_id)
    assert (breached(found), not_checked(found)) == (set(), {"versions-recorded"})


def test_rotation_during_the_checks_is_no_breach(attack, rotating, monkeypatch) -> None:
    step, probes = rotating.wants(), rotating.tenant.parts.queries.key_probes

    def meanwhile(after: str, limit: int) -> object:
        rotating.rotate(step)
        return probes(after, limit)

    monkeypatch.setattr(rotating.tenant.parts.queries, "key_probes", meanwhile)
    with pytest.raises(Superseded):  # the version that was read is retired meanwhile; the attempt is repeated
        attack(rotating.tenant_id)

    def begun(after: str, limit: int) -> object:
        rotating.step_of("plan-rotation", step)
        rotating.tenant_keys.rotate(rotating.tenant_id, 2)
        return probes(after, limit)

    step = rotating.wants()
    monkeypatch.setattr(rotating.tenant.parts.queries, "key_probes", begun)
    found = attack(rotating.tenant_id)
    assert (breached(found), not_checked(found)) == (set(), {"versions-recorded"})


def test_new_version_that_equals_an_old_one_is_a_breach(attack, active, vault_admin, field) -> None:
    name = ids.l2_key(active.tenant_id)
    forget_key(vault_admin, active.tenant_id)
    an_old_version_again(vault_admin, name)
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.key_fingerprint")
        administrator.execute("update okcm.key set version = 2 where name = %s", [name])
    assert breached(attack(active.tenant_id)) == {"open-as-another-version", "fingerprint-is-its-own"}


def test_key_without_derivation_is_a_breach(attack, active, vault_admin) -> None:
    forget_key(vault_admin, active.tenant_id)
    vault_admin.write(f"transit/keys/{ids.l2_key(active.tenant_id)}", {"type": "aes256-gcm96"})
    assert breached(attack(active.tenant_id)) >= {"open-as-another-service", "key-is-derived-and-stays-inside"}


def test_tenant_without_a_key_has_no_results(tenant, parts, settings) -> None:
    assert attacks_of(parts, settings)(tenant.tenant_id) == ()
