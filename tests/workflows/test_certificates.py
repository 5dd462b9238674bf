"""Rotation of a tenant CA: order, rejections and renewals; and the effects of the hourly checks."""

import asyncio

import pytest

from core import names as ids
from core.messages.base import TenantsResult
from core.messages.services import ExpiryResult, RollAuthorityResult, ServicesResult, UnrenewedService
from core.messages.tenants import StatusChange
from tests.concurrency import wait_until_async
from tests.workflows.entities import refused, run_platform
from workflows.certificates import CheckExpiry, RotateCertificateAuthority, RotateDueCertificateAuthorities
from workflows.root_keys import ChangeRootKey
from workflows.runtime import options as visibility
from workflows.services import ConnectService
from workflows.tenants import Tenant

WORKFLOWS = [
    Tenant,
    RotateCertificateAuthority,
    ChangeRootKey,
    ConnectService,
    CheckExpiry,
    RotateDueCertificateAuthorities,
]
ROLL = ["plan-ca", "prepare-ca", "verify-ca", "activate-ca"]
AFTER = ["find-unrenewed-services", "publish-revocation-list"]


@pytest.fixture
async def connected(entity, script):
    """Return the tenant workflow with a connected service, without the calls of the connection."""
    await entity.gateway.connect_service(entity.tenant_id, entity.region, "orders-db", "request-1")
    script.calls.clear()
    return entity


async def test_rotation_prepares_verifies_activates_and_publishes_in_this_order(entity, script):
    await entity.roll_authority()
    assert script.calls == [*ROLL, *AFTER]
    await entity.roll_authority()
    assert [step.operation_id for step in script.inputs["plan-ca"]] == ["authority-roll-1", "authority-roll-2"]


async def test_services_renew_after_a_ca_rotation_and_one_without_a_workflow_blocks_no_other(connected, script):
    script.answers["find-unrenewed-services"] = ServicesResult(services=("gone-db", "orders-db"))
    await connected.roll_authority()
    await wait_until_async(lambda: len(script.services.issued) == 2)
    assert [call for call in script.calls if call in {"plan-renewal", "issue-certificate"}] == [
        "plan-renewal",
        "issue-certificate",
    ]


async def test_failed_step_ends_the_ca_rotation_without_effect_and_the_next_one_may_start(entity, script):
    for step in ROLL[1:]:
        script.refused = {step: "conflicting_resource"}
        await refused("conflicting_resource", entity.roll_authority())
        assert script.calls[-1] == "abandon-ca"
    script.refused.clear()
    await entity.roll_authority()
    assert script.calls[-len(ROLL + AFTER) :] == [*ROLL, *AFTER]


async def test_ca_rotation_that_was_activated_despite_an_error_succeeds(entity, script):
    script.refused["activate-ca"] = "superseded"
    script.answers["abandon-ca"] = RollAuthorityResult(code="")
    await entity.roll_authority()
    assert script.calls[-2:] == AFTER


async def test_overlap_rejects_the_next_ca_rotation_before_any_step(entity, script):
    script.refused["plan-ca"] = "ca_rotation_in_progress"
    await refused("ca_rotation_in_progress", entity.roll_authority())
    assert script.calls == []


async def test_ca_rotation_rejects_other_operations_but_not_a_lock(entity, script):
    script.down.add("prepare-ca")
    running = asyncio.create_task(entity.roll_authority())
    await wait_until_async(lambda: script.attempts["prepare-ca"])
    for another in (entity.roll_authority(), entity.change_root_key()):
        await refused("operation_running", another)
    await entity.handle.signal("ca-rotation-due")
    await entity.move(StatusChange.LOCK)
    script.down.clear()
    await running
    assert script.calls.count("plan-ca") == 1


async def test_crl_that_cannot_be_published_is_left_to_the_schedule(entity, script):
    script.refused["publish-revocation-list"] = "vault_refused"
    await entity.roll_authority()
    assert script.calls[: len(ROLL)] == ROLL
    tried = script.attempts["publish-revocation-list"]
    await entity.handle.signal("certificates-revoked")
    await wait_until_async(lambda: script.attempts["publish-revocation-list"] > tried)
    script.refused.clear()
    await entity.handle.signal("certificates-revoked")
    await wait_until_async(lambda: "publish-revocation-list" in script.calls)


async def test_hourly_check_rotates_due_cas_and_skips_missing_tenants(client, queue, entity, script):
    script.answers["find-due-cas"] = TenantsResult(tenants=("gone-corp", entity.tenant_id))
    await run_platform(client, queue, RotateDueCertificateAuthorities)
    await wait_until_async(lambda: "publish-revocation-list" in script.calls)
    assert script.calls == ["retire-cas", "find-due-cas", *ROLL, *AFTER]


async def test_disconnecting_publishes_a_crl(connected, script):
    await connected.gateway.disconnect_service(connected.tenant_id, connected.region, "orders-db")
    await wait_until_async(lambda: "publish-revocation-list" in script.calls)


async def test_many_disconnections_at_once_publish_few_crls(entity, script):
    await asyncio.gather(*(entity.handle.signal("certificates-revoked") for _ in range(20)))
    await wait_until_async(lambda: "publish-revocation-list" in script.calls)
    await entity.move(StatusChange.SUSPEND)  # the update follows all signals
    assert script.calls.count("publish-revocation-list") < 20


async def test_late_service_is_renewed_by_its_workflow_or_by_a_new_one(client, queue, connected, script):
    lost = UnrenewedService(tenant_id=connected.tenant_id, region=connected.region, service="users-db", generation=7)
    late = (lost.model_copy(update={"service": "orders-db", "generation": 1}), lost)
    script.answers["check-expiry"] = ExpiryResult(services=late)
    await run_platform(client, queue, CheckExpiry)
    await wait_until_async(lambda: len(script.services.issued) == 3)
    assert {step.service for step in script.services.issued} == {"orders-db", "users-db"}
    started = client.get_workflow_handle(ids.service_workflow(connected.tenant_id, "users-db"))
    described = await started.describe()
    assert described.status.name == "RUNNING"
    assert described.typed_search_attributes.get(visibility.TENANT_ID) == connected.tenant_id
