"""Rotation of very many service keys: the activation locks the tenant's row for a short time only."""

import json
import time
from collections import Counter

import pytest

from core.keys.rotation import KeyState
from tests.activities.services.many_services import add_services, prepare_versions


@pytest.mark.parametrize("number", [450, pytest.param(8000, marks=pytest.mark.full)])
def test_compromised_keys_of_many_services_are_replaced_and_destroyed(rotating, field, number) -> None:
    with field.administrator() as administrator:
        add_services(administrator, rotating.tenant_id, number, "orders")
    step = rotating.wants(tenant_key=False, compromised=True)
    rotating.step_of("plan-rotation", step)
    with field.administrator() as administrator:
        prepare_versions(administrator, rotating.tenant_id)
    began = time.monotonic()
    rotating.step_of("activate-service-keys", step)
    # Two events for each service; a lock of the tenant waits meanwhile. With single appends it took 25 s for 8,000.
    # The bound leaves room for a busy machine.
    assert time.monotonic() - began < 12
    beats = rotating.tenant.heartbeats
    beats.clear()
    rotating.step_of("destroy-compromised-keys", step)
    rotating.step_of("destroy-compromised-keys", step)
    assert len(beats) > number // 200

    states = {version: state for version, state in rotating.states().items() if version[0].startswith("many-")}
    assert Counter((version, state) for (_, version), state in states.items()) == {
        (1, KeyState.DESTROYED): number,
        (2, KeyState.ACTIVE): number,
    }
    rows = rotating.rows("select record from okcm.audit_event where record like '%many-%' order by seq")
    found = Counter((one["name"], one["outcome"]) for one in map(json.loads, (record for (record,) in rows)))
    assert found.pop(("key.rotated", "intended")) == 1
    assert found == {
        ("key.service_key_rotated", "success"): number,
        ("key.service_key_compromised", "success"): number,
        ("key.service_key_destroyed", "intended"): number,
        ("key.service_key_destroyed", "success"): number,
    }
