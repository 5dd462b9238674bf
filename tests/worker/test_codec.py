"""Payloads are encrypted under the tenant's key and bound to their label, and unreadable without the key."""

import os

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import WorkflowSerializationContext

from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from vault.transit.keys import TransitKey
from worker.payload_codec import PLATFORM_KEY, PayloadKeyCache, TenantCodec, TenantConverter

ACME, BETA = "acme-corp-12345", "beta-corp-67890"


class FakePayloadKeys:
    """Payload keys that unwrap data keys as Transit does; a removed key unwraps nothing."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str], bytes] = {}
        self.opened = 0

    def ensure(self, tenant_id: str) -> TransitKey:
        return TransitKey(f"payload-{tenant_id}", 1)

    def new_data_key(self, key_name: str) -> tuple[bytes, str]:
        plain, wrapped = os.urandom(32), f"vault:v1:{len(self.made)}"
        self.made[(key_name, wrapped)] = plain
        return plain, wrapped

    def open_data_key(self, key_name: str, wrapped: str) -> bytes:
        self.opened += 1
        try:
            return self.made[(key_name, wrapped)]
        except KeyError:
            raise KeyUnavailable from None

    def shred(self, key_name: str) -> None:
        self.made = {place: key for place, key in self.made.items() if place[0] != key_name}


@pytest.fixture
def keys() -> FakePayloadKeys:
    return FakePayloadKeys()


def codec_of(keys: FakePayloadKeys, tenant_id: str, *, learned: bool = True) -> TenantCodec:
    keyring = PayloadKeyCache(keys)
    keyring.open_platform_key()
    if learned:
        keyring.learn(tenant_id, *keys.new_data_key(f"payload-{tenant_id}"))
    return for_tenant(TenantCodec(keyring), tenant_id)


def for_tenant(codec: TenantCodec, tenant_id: str) -> TenantCodec:
    return codec.with_context(WorkflowSerializationContext("default", f"tenant/{tenant_id}/provision"))


def a_payload() -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=b'"ACME Corporation"')


async def test_encoded_payload_hides_its_text_and_can_be_decoded(keys):
    codec = codec_of(keys, ACME)
    [sealed] = await codec.encode([a_payload()])
    assert b"ACME Corporation" not in sealed.SerializeToString()
    assert await codec.decode([sealed]) == [a_payload()]


async def test_payloads_are_encrypted_by_the_tenants_key_once_it_is_known(keys):
    first = codec_of(keys, ACME, learned=False)
    [before] = await first.encode([a_payload()])
    [after] = await codec_of(keys, ACME).encode([a_payload()])
    assert before.metadata["key"] == PLATFORM_KEY.encode()
    assert after.metadata["key"] == b"payload-acme-corp-12345"
    # Another worker learns the key from the first payload that it decrypts.
    await first.decode([after])
    [answer] = await first.encode([a_payload()])
    assert answer.metadata["key"] == b"payload-acme-corp-12345"
    assert keys.opened == 1


async def test_deleting_a_tenants_key_makes_only_its_payloads_unreadable(keys):
    [acme] = await codec_of(keys, ACME).encode([a_payload()])
    [beta] = await codec_of(keys, BETA).encode([a_payload()])
    keys.shred("payload-acme-corp-12345")
    reader = codec_of(keys, ACME, learned=False)
    with pytest.raises(KeyUnavailable):
        await reader.decode([acme])
    assert await reader.decode([beta]) == [a_payload()]


async def test_payload_with_another_keys_label_is_rejected(keys):
    codec = codec_of(keys, ACME)
    [sealed] = await codec.encode([a_payload()])
    plain = keys.made[("payload-acme-corp-12345", sealed.metadata["data-key"].decode())]
    keys.made[("payload-beta-corp-67890", sealed.metadata["data-key"].decode())] = plain
    sealed.metadata["key"] = b"payload-beta-corp-67890"
    with pytest.raises(WrongContext):
        await codec_of(keys, BETA, learned=False).decode([sealed])


@pytest.mark.parametrize("position", [0, 5, -1])
async def test_altered_payload_is_rejected(keys, position):
    codec = codec_of(keys, ACME)
    [sealed] = await codec.encode([a_payload()])
    altered = bytearray(sealed.data)
    altered[position] ^= 1
    sealed.data = bytes(altered)
    with pytest.raises(WrongContext):
        await codec.decode([sealed])


async def test_plain_and_empty_payloads_pass_unchanged(keys):
    codec, empty = codec_of(keys, ACME), Payload(metadata={"encoding": b"binary/null"})
    assert await codec.decode([a_payload()]) == [a_payload()]
    assert await codec.encode([empty]) == [empty]


async def test_a_converter_encrypts_for_the_tenant_of_the_workflow_and_shares_the_rest(keys):
    keyring = PayloadKeyCache(keys)
    keyring.open_platform_key()
    for tenant_id in (ACME, BETA):
        keyring.learn(tenant_id, *keys.new_data_key(f"payload-{tenant_id}"))
    converter = TenantConverter(TenantCodec(keyring))
    acme = converter.with_context(WorkflowSerializationContext("default", ids.tenant_workflow(ACME)))
    beta = acme.with_context(WorkflowSerializationContext("default", ids.tenant_workflow(BETA)))
    [sealed], [other] = await acme.encode(["secret"]), await beta.encode(["secret"])
    assert sealed.metadata["key"] == ids.payload_key(ACME).encode()
    assert other.metadata["key"] == ids.payload_key(BETA).encode()
    assert await acme.decode([sealed], [str]) == ["secret"]
    assert beta.payload_converter is converter.payload_converter
    assert beta.with_context(WorkflowSerializationContext("default", ids.provision_workflow(BETA))) is beta


async def test_payloads_of_an_offboarding_outlive_the_tenants_key(keys):
    keyring = PayloadKeyCache(keys)
    keyring.open_platform_key()
    keyring.learn(ACME, *keys.new_data_key(f"payload-{ACME}"))
    codec = TenantCodec(keyring).with_context(WorkflowSerializationContext("default", ids.offboard_workflow(ACME)))
    (sealed,) = await codec.encode([Payload(data=b"ids")])
    assert sealed.metadata["key"].decode() == PLATFORM_KEY
    keys.shred(f"payload-{ACME}")
    assert await codec.decode([sealed]) == [Payload(data=b"ids")]
