"""A tenant that is not in use refuses every operation, and nothing of it is done."""

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
async def test_tenant_that_is_not_in_use_refuses_every_operation(client, region, script, state):
    entity = await Entity.start(client, region, state)
    for signal in ("authority-due", ROTATION_DUE):
        await entity.handle.signal(signal)
    asked = [
        *(("illegal_move", entity.move(move)) for move in StatusChange),
        ("tenant_closed", entity.change_root_key()),
        ("tenant_closed", entity.gateway.preflight_root_key(entity.tenant_id, uuid.uuid4().hex)),
        ("tenant_closed", entity.rotate()),
        ("tenant_closed", entity.retire(1)),
        ("tenant_closed", entity.roll_authority()),
    ]
    if state is not State.LEAVING:
        policy = entity.gateway.change_policy(entity.tenant_id, TenantPolicy())
        asked += [("tenant_closed", one) for one in (entity.propose(), entity.decide("a" * 32), policy)]
        asked += [("illegal_move", one) for one in (entity.offboard(), entity.restore())]
    for code, request in asked:
        await refused(code, request)
    assert script.calls == []


async def test_tenant_in_use_is_not_restored_and_locked_one_rotates_nothing(client, region, script, entity):
    await refused("illegal_move", entity.restore())
    locked = await Entity.start(client, region, State.LOCKED)
    for asked in (locked.rotate(), locked.retire(1)):
        await refused("tenant_closed", asked)
    assert script.calls == []
