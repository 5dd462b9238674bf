"""A long history is continued in a new run without an interrupted or a lost request."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from core.messages.tenants import StatusChange
from core.tenants.lifecycle import State
from tests.concurrency import wait_until_async
from tests.workflows.entities import Entity, refused
from workflows.provisioning import ProvisionTenant
from workflows.root_keys import ChangeRootKey
from workflows.rotation import RotateKeys
from workflows.runtime import options as visibility
from workflows.runtime.signals import ROOT_KEY_REPORTED
from workflows.tenants import Tenant

WORKFLOWS = [Tenant, ProvisionTenant, RotateKeys, ChangeRootKey]
_EVENTS = 80
"""Events after which this server suggests a new run, instead of 4,096."""


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        search_attributes=visibility.ALL,
        dev_server_existing_path=str(Path(sys.executable).with_name("temporal")),
        dev_server_extra_args=["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={_EVENTS}"],
    ) as environment:
        yield environment.client


async def lengthen(entity: Entity) -> None:
    for _ in range(_EVENTS):
        await entity.handle.signal("padding")


async def wait_for_new_run(entity: Entity, first: str) -> None:
    async def continued() -> bool:
        return await run_id(entity) != first

    await wait_until_async(continued)


async def run_id(entity: Entity) -> str:
    return (await entity.handle.describe()).run_id


async def test_new_run_interrupts_no_request_while_a_notification_is_sent(entity, script):
    first = await run_id(entity)
    script.down |= {"plan-rotation", "send-notification locked"}
    rotations = [asyncio.create_task(entity.rotate(request_id="a" * 32))]
    await wait_until_async(lambda: script.attempts["plan-rotation"])
    await lengthen(entity)
    await entity.move(StatusChange.LOCK)
    await wait_until_async(lambda: script.attempts["send-notification locked"])
    script.down.remove("plan-rotation")
    await rotations[0]
    await entity.move(StatusChange.UNLOCK)
    script.down.add("plan-rotation")
    attempts = script.attempts["plan-rotation"]
    rotations.append(asyncio.create_task(entity.rotate(request_id="b" * 32)))
    await wait_until_async(lambda: script.attempts["plan-rotation"] > attempts)
    script.down.remove("send-notification locked")
    await wait_until_async(lambda: "send-notification locked" in script.calls)
    await lengthen(entity)
    assert await run_id(entity) == first
    script.down.clear()
    await rotations[1]
    await wait_for_new_run(entity, first)
    # The second rotation ran once, and the next run counts on.
    assert {step.number for step in script.inputs["plan-rotation"]} == {1, 2}
    await entity.rotate()
    assert script.inputs["plan-rotation"][-1].number == 3


async def test_new_run_loses_no_accepted_retry(client, region, script):
    entity = await Entity.start(client, region, State.FAILED)
    first = await run_id(entity)
    script.down.add("apply-root-key-health")
    await entity.handle.signal(ROOT_KEY_REPORTED)  # an unfinished handler delays the new run
    await wait_until_async(lambda: script.attempts["apply-root-key-health"])
    await lengthen(entity)
    await entity.gateway.retry(entity.tenant_id)
    await wait_until_async(lambda: "activate" in script.calls)
    script.down.clear()
    await wait_for_new_run(entity, first)
    await entity.reaches(State.ACTIVE)
    assert script.calls.count("activate") == 1


async def test_repeated_request_is_not_run_again_by_the_next_run(entity, script):
    first, request_id = await run_id(entity), "c" * 32
    await entity.rotate(request_id=request_id)
    await entity.change_root_key(request_id)
    await lengthen(entity)
    await entity.handle.signal(ROOT_KEY_REPORTED)
    await wait_for_new_run(entity, first)
    script.down.add("plan-rotation")
    running = asyncio.create_task(entity.rotate())
    await wait_until_async(lambda: script.attempts["plan-rotation"] > 1)
    # The result of a completed request does not depend on the operation that runs now.
    await entity.rotate(request_id=request_id)
    await entity.change_root_key(request_id)
    script.down.clear()
    await running
    assert {step.number for step in script.inputs["plan-rotation"]} == {1, 2}
    assert [step.number for step in script.inputs["register-root-key"]] == [1]


async def test_failed_request_runs_again_in_the_next_run(entity, script):
    first, request_id = await run_id(entity), "d" * 32
    script.refused |= {"plan-rotation": "key_unavailable"}
    await refused("key_unavailable", entity.rotate(request_id=request_id))
    await lengthen(entity)
    await entity.handle.signal(ROOT_KEY_REPORTED)
    await wait_for_new_run(entity, first)
    script.refused.clear()
    await entity.rotate(request_id=request_id)
    assert [step.number for step in script.inputs["plan-rotation"]][-1] == 2
