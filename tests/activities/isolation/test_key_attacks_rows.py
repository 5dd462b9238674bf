"""The isolation checks of wraps and row references are breached when a layer or a reference is missing."""

import os

import pytest

from activities.keys import context_of
from core import names as ids
from core.errors.compliance import PositiveControlFailed
from kms.platform import PlatformRootKey
from tests.activities.isolation.attacking import breached
from tests.activities.provisioning import REGION
from tests.activities.root_keys.changing import SERVICES
from tests.database.builders import an_object


def store(rotating, field, copies, wrap) -> None:
    """Replace the wrap of every service key; `wrap` receives the root key, the context and the inner layer."""
    root_key = PlatformRootKey(rotating.tenant.parts.root_keys, REGION)
    with field.administrator() as administrator:
        for row, inner in copies:
            wrapped = wrap(root_key, context_of(rotating.tenant_id, row.service, row.version), inner)
            administrator.execute(
                "update okcm.service_key set wrapped = %s where tenant_id = %s and service = %s",
                [wrapped, rotating.tenant_id, row.service],
            )


def test_wrap_without_a_layer_or_version_is_a_breach_and_an_invalid_one_is_an_error(
    attack, rotating, field, vault_admin
) -> None:
    copies = rotating.copies()
    with field.administrator() as administrator:
        administrator.execute("update okcm.service_key set l2_version = 9 where service = %s", [SERVICES[0]])
        assert breached(attack(rotating.tenant_id)) == {"wraps-name-own-key-and-version"}
        administrator.execute("update okcm.service_key set l2_version = 1 where service = %s", [SERVICES[0]])
    store(rotating, field, copies, lambda _, __, inner: inner)
    assert "open-without-root-key" in breached(attack(rotating.tenant_id))
    # Also where the root key has retired the version in the ciphertext.
    root_key = f"transit/keys/{ids.root_key(REGION)}"
    vault_admin.write(f"{root_key}/rotate")
    vault_admin.write(f"{root_key}/config", {"min_decryption_version": vault_admin.read(root_key)["latest_version"]})
    assert "open-without-root-key" in breached(attack(rotating.tenant_id))
    store(rotating, field, copies, lambda root_key, context, _: root_key.wrap(context, os.urandom(32)))
    assert breached(attack(rotating.tenant_id)) == {"open-without-tenant-key"}
    store(rotating, field, copies, lambda *_: b"vault:v1:" + b"A" * 60)
    with pytest.raises(PositiveControlFailed, match="cannot be unwrapped with both"):
        attack(rotating.tenant_id)


def dropped(field, table: str, definition: str) -> None:
    with field.administrator() as administrator:
        (name,) = administrator.execute(
            "select conname from pg_constraint where conrelid = %s::regclass and pg_get_constraintdef(oid) like %s",
            [f"okcm.{table}", definition],
        ).fetchone()
        administrator.execute(f"alter table okcm.{table} drop constraint {name} cascade")


@pytest.mark.parametrize(
    "reference",
    [
        ("service_key", "%(tenant_id, l2_key)% okcm.key(%", "rows-under-another-key"),
        ("key_probe", "%(tenant_id, l2_key)% okcm.key(%", "rows-under-another-key"),
        ("managed_object", "%okcm.service_key(%", "objects-indexed-by-own-key"),
        ("managed_object", "PRIMARY KEY%", "objects-indexed-by-own-key"),
    ],
    ids=["service key", "probe", "object", "index"],
)
def test_missing_reference_is_a_breach(attack, rotating, field, reference) -> None:
    table, definition, name = reference
    assert breached(attack(rotating.tenant_id)) == set()
    dropped(field, table, definition)
    assert breached(attack(rotating.tenant_id)) == {name}


def test_rows_and_objects_under_another_tenants_key_are_a_breach(attack, rotating, field, canary) -> None:
    with field.open("crypto").tenant_tx(rotating.tenant_id) as tx:
        tx.objects.add([an_object(rotating.tenant_id, service=SERVICES[0])])
    dropped(field, "managed_object", "%okcm.service_key(%")
    with field.administrator() as administrator:
        administrator.execute("update okcm.managed_object set l2_key = %s", [ids.l2_key(canary.tenant_id)])
    found = breached(attack(rotating.tenant_id))
    assert found >= {"rows-descend-from-own-key", "objects-indexed-by-own-key"}
    assert not found & {"rows-under-another-key", "wraps-name-own-key-and-version"}
    dropped(field, "service_key", "%(tenant_id, l2_key)% okcm.key(%")
    with field.administrator() as administrator:
        administrator.execute("update okcm.service_key set l2_key = %s", [ids.l2_key(canary.tenant_id)])
    assert breached(attack(rotating.tenant_id)) >= {"rows-under-another-key", "wraps-name-own-key-and-version"}


def test_rejected_attack_is_no_error_in_the_log_of_the_database(attack, rotating, postgres) -> None:
    """The runbook treats a rejected statement in the log as an attack."""
    before = postgres.log_file.stat().st_size
    assert breached(attack(rotating.tenant_id)) == set()
    assert b"ERROR" not in postgres.log_file.read_bytes()[before:]
