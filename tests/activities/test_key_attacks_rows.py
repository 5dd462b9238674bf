"""The attacks on wraps and on the descent of rows go red when a layer or a reference is missing."""

import os

import pytest

from activities.wrapping import context_of
from keystores.platform import PlatformRootKey
from tenancy import ids
from tenancy.isolation_errors import ControlFailed
from tests.activities.attacking import attack, breached
from tests.activities.changing import SERVICES
from tests.activities.conftest import REGION
from tests.activities.connecting import operator
from tests.activities.rotating import bao, opener, rotating
from tests.database.builders import an_object

__all__ = ["attack", "bao", "opener", "operator", "rotating"]  # fixtures


def stored_as(rotating, field, wrap) -> None:
    """Put another wrap in the place of every service key's; `wrap` gets context and what lies under the root key."""
    root_key = PlatformRootKey(rotating.tenant.parts.root_keys, REGION)
    with field.administrator() as administrator:
        for row, inner in rotating.copies():
            wrapped = wrap(root_key, context_of(rotating.tenant_id, row.service, row.version), inner)
            administrator.execute(
                "update okcm.service_key set wrapped = %s where tenant_id = %s and service = %s",
                [wrapped, rotating.tenant_id, row.service],
            )


def test_a_wrap_that_was_made_without_the_root_key_is_a_breach(attack, rotating, field) -> None:
    stored_as(rotating, field, lambda _, __, inner: inner)
    assert "open-without-root-key" in breached(attack(rotating.tenant_id))


def test_a_wrap_that_was_made_without_the_tenant_key_is_a_breach(attack, rotating, field) -> None:
    stored_as(rotating, field, lambda root_key, context, _: root_key.wrap(context, os.urandom(32)))
    assert breached(attack(rotating.tenant_id)) == {"open-without-tenant-key"}


def test_a_wrap_that_does_not_open_at_all_is_no_result(attack, rotating, field) -> None:
    stored_as(rotating, field, lambda *_: b"vault:v1:" + b"A" * 60)
    with pytest.raises(ControlFailed, match="does not open with both"):
        attack(rotating.tenant_id)


def test_a_wrap_under_a_version_that_opens_nothing_is_a_breach(attack, rotating, field) -> None:
    with field.administrator() as administrator:
        administrator.execute("update okcm.service_key set l2_version = 9 where service = %s", [SERVICES[0]])
    assert breached(attack(rotating.tenant_id)) == {"wraps-name-own-key-and-version"}


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
def test_a_reference_that_is_gone_is_a_breach(attack, rotating, field, reference) -> None:
    table, definition, name = reference
    assert breached(attack(rotating.tenant_id)) == set()
    dropped(field, table, definition)
    assert breached(attack(rotating.tenant_id)) == {name}


def test_rows_that_descend_from_anothers_key_are_a_breach(attack, rotating, field, canary) -> None:
    dropped(field, "service_key", "%(tenant_id, l2_key)% okcm.key(%")
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.service_key set l2_key = %s where service = %s",
            [ids.l2_key(canary.tenant_id), SERVICES[0]],
        )
    assert breached(attack(rotating.tenant_id)) >= {
        *("rows-under-another-key", "rows-descend-from-own-key", "wraps-name-own-key-and-version"),
    }


def test_an_object_under_anothers_key_is_a_breach(attack, rotating, field, canary) -> None:
    with field.open("crypto").tenant_tx(rotating.tenant_id) as tx:
        tx.objects.add([an_object(rotating.tenant_id, service=SERVICES[0])])
    dropped(field, "managed_object", "%okcm.service_key(%")
    with field.administrator() as administrator:
        administrator.execute("update okcm.managed_object set l2_key = %s", [ids.l2_key(canary.tenant_id)])
    assert breached(attack(rotating.tenant_id)) >= {"rows-descend-from-own-key", "objects-indexed-by-own-key"}
