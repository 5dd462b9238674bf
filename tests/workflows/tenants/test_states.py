"""An inactive tenant rejects every operation, and no activity runs."""

import uuid

import pytest

from core.messages.tenants import StatusChange
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from tests.workflows.entities import Entity, refused
from workflows.runtime.signals import ROTATION_DUE
from workflows.tenants import Tenant

WORKFLOWS = [Tenant]


@pytest.mark.parametrize("state", [State.REQUESTED, State.PROVISIONING, State.FAILED, State.LEAVING, State.OFFBOARDED])
async def test_inactive_tenant_rejects_every_operation(client, region, script, state):
    entity = await Entity.start(client, region, state)
    for signal in ("ca-rotation-due", ROTATION_DUE):
        await entity.handle.signal(signal)
    requests = [
        ("tenant_not_operational", entity.change_root_key()),
        ("tenant_not_operational", entity.gateway.preflight_root_key(entity.tenant_id, uuid.uuid4().hex)),
        ("tenant_not_operational", entity.rotate()),
        ("tenant_not_operational", entity.retire(1)),
        ("tenant_not_operational", entity.roll_authority()),
    ]
    if state is not State.LEAVING:
        policy = entity.gateway.change_policy(entity.tenant_id, TenantPolicy())
        requests += [("tenant_not_operational", one) for one in (entity.propose(), entity.decide("a" * 32), policy)]
    if state is State.OFFBOARDED:  # in other states the row decides (tests/activities)
        status = (*map(entity.move, StatusChange), entity.restore(), entity.offboard())
        requests += [("invalid_transition", one) for one in (*status, entity.gateway.retry(entity.tenant_id))]
    for code, request in requests:
        await refused(code, request)
    assert script.calls == []


async def test_locked_tenant_rotates_no_key(client, region, script):
    locked = await Entity.start(client, region, State.LOCKED)
    for request in (locked.rotate(), locked.retire(1)):
        await refused("tenant_not_operational", request)
    assert script.calls == []
