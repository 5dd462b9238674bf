"""Payload keys are rotated: new payloads use the new version, and histories from before stay readable."""

import asyncio
import uuid

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from core import names as ids
from devstack.servers.temporal import TemporalServer
from tests.vault.server import Server
from vault.auth.client import TokenSession
from vault.setup import PLATFORM_PAYLOAD_KEY
from vault.transit.keys import ciphertext_version
from vault.transit.payload_keys import TransitPayloadKeys
from worker.payload_codec import PayloadKeyCache, TenantCodec, TenantConverter

TENANT = "rotated-corp-1"


@workflow.defn
class Echo:
    def __init__(self) -> None:
        self._heard: list[str] = []

    @workflow.run
    async def run(self, first: str) -> list[str]:
        await workflow.wait_condition(lambda: self._heard)
        return [first, *self._heard]

    @workflow.query
    def heard(self) -> list[str]:
        return self._heard

    @workflow.signal
    def hear(self, text: str) -> None:
        self._heard.append(text)


def opened(transit: TransitPayloadKeys) -> PayloadKeyCache:
    keyring = PayloadKeyCache(transit)
    keyring.open_platform_key()
    return keyring


async def connect(temporal: TemporalServer, keyring: PayloadKeyCache) -> Client:
    return await Client.connect(temporal.address, data_converter=TenantConverter(TenantCodec(keyring)))


def echoing(client: Client, queue: str) -> Worker:
    return Worker(client, task_queue=queue, workflows=[Echo], workflow_runner=UnsandboxedWorkflowRunner())


async def versions(handle: WorkflowHandle) -> list[int]:
    """Return the key versions of the input, the signal and the result in the history."""
    events = (await handle.fetch_history()).events
    stored: list[Payload] = []
    for event in events:
        for part in (
            event.workflow_execution_started_event_attributes.input,
            event.workflow_execution_signaled_event_attributes.input,
            event.workflow_execution_completed_event_attributes.result,
        ):
            stored += part.payloads
    assert {payload.metadata["key"] for payload in stored} == {ids.payload_key(TENANT).encode()}
    return [ciphertext_version(payload.metadata["data-key"].decode()) for payload in stored]


@pytest.fixture
def transit(key_server: Server) -> TransitPayloadKeys:
    return TransitPayloadKeys(key_server.session("worker"))


async def test_history_from_before_a_rotation_stays_readable_and_new_payloads_use_the_new_version(
    temporal: TemporalServer, transit: TransitPayloadKeys, vault_admin: TokenSession
) -> None:
    key = transit.ensure(TENANT)
    keyring = opened(transit)
    keyring.learn(TENANT, *transit.new_data_key(key.name))
    client, queue = await connect(temporal, keyring), uuid.uuid4().hex
    async with echoing(client, queue):
        handle = await client.start_workflow(
            Echo.run, "before", id=f"{ids.tenant_workflow(TENANT)}/{uuid.uuid4().hex}", task_queue=queue
        )
        assert await handle.query(Echo.heard) == []
    vault_admin.write(f"transit/keys/{key.name}/rotate")
    keyring.renew()
    await handle.signal(Echo.hear, "after")
    # Another process replays the history; the versions in its payloads name what Transit has to unwrap.
    async with echoing(await connect(temporal, opened(transit)), queue):
        assert await handle.result() == ["before", "after"]
    assert await versions(handle) == [1, 2, 2]
    later = await connect(temporal, opened(transit))
    assert await later.get_workflow_handle_for(Echo.run, handle.id).result() == ["before", "after"]


async def test_another_worker_uses_the_newer_data_key_that_it_decrypted(transit, vault_admin) -> None:
    key = transit.ensure("rotated-corp-2")
    first, second = opened(transit), opened(transit)
    former = transit.new_data_key(key.name)
    for keyring in (first, second):
        keyring.learn("rotated-corp-2", *former)
    vault_admin.write(f"transit/keys/{key.name}/rotate")
    first.renew()
    newer = first.current("rotated-corp-2")
    assert ciphertext_version(newer.wrapped) == 2
    await second.open(key.name, newer.wrapped)
    assert second.current("rotated-corp-2") == newer
    # A payload from before the rotation changes nothing.
    await second.open(key.name, former[1])
    assert second.current("rotated-corp-2") == newer


def test_data_key_stays_in_use_without_a_rotation_and_while_the_key_server_fails(transit, vault_admin) -> None:
    key = transit.ensure("rotated-corp-3")
    keyring = opened(transit)
    keyring.learn("rotated-corp-3", *transit.new_data_key(key.name))
    kept = keyring.current("rotated-corp-3")
    keyring.renew()
    assert keyring.current("rotated-corp-3") == kept
    vault_admin.write(f"transit/keys/{key.name}/rotate")
    vault_admin.delete(f"transit/keys/{key.name}/soft-delete")
    keyring.renew()
    assert keyring.current("rotated-corp-3") == kept


async def test_platforms_key_is_rotated_too(transit, vault_admin) -> None:
    keyring = opened(transit)
    former = keyring.current(None)
    vault_admin.write(f"transit/keys/{PLATFORM_PAYLOAD_KEY}/rotate")
    await asyncio.to_thread(keyring.renew)
    assert ciphertext_version(keyring.current(None).wrapped) == ciphertext_version(former.wrapped) + 1
    assert await keyring.open(former.key_name, former.wrapped) == former.plain


def test_key_server_rotates_payload_keys_automatically(transit, vault_admin) -> None:
    for name in (transit.ensure("rotated-corp-4").name, PLATFORM_PAYLOAD_KEY):
        record = vault_admin.read(f"transit/keys/{name}")
        assert record is not None
        assert record["auto_rotate_period"] == 90 * 24 * 3600
        assert (record["min_decryption_version"], record["exportable"]) == (1, False)
