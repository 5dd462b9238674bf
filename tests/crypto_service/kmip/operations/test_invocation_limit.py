"""The limit of AES-GCM encryptions of one key with random nonces (SP 800-38D, section 8.3)."""

from math import exp, lgamma, log

import pytest

from crypto_service.kmip.codec.enums import Operation, ResultReason
from crypto_service.kmip.codec.fields import long, octets
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.kmip.operations import invocation_limit
from tests.crypto_service.kmip.scene import VALUE, Answered, Client, Scene, attribute, cbc, gcm

COUNT = "y-GCM Invocations"


@pytest.fixture
def every_invocation_counts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Count each invocation instead of a sample, and permit four."""
    monkeypatch.setattr(invocation_limit, "SAMPLE_BYTES", 0)
    monkeypatch.setattr(invocation_limit, "MOST_INVOCATIONS", 4)
    return 4


async def encrypt(client: Client, key: str, nonce: bytes = b"") -> Answered:
    return await client.encrypt(key, b"the data", octets(Tag.IV_COUNTER_NONCE, nonce), parameters=gcm())


async def test_two_processes_share_the_limit_and_a_restart_keeps_it(scene: Scene, every_invocation_counts: int):
    clients = [scene.client(process=process) for process in (scene.one, scene.two)]
    key = await clients[0].activated()
    # Both processes have the key in their caches; no change is notified.
    answers = [await encrypt(clients[number % 2], key) for number in range(every_invocation_counts + 4)]
    assert [answer.reason for answer in answers[:every_invocation_counts]] == [None] * every_invocation_counts
    restarted = await encrypt(scene.client(process=scene.process()), key)
    for refused in (*answers[every_invocation_counts:], restarted):
        assert refused.reason is ResultReason.PERMISSION_DENIED
        assert "2^32" in refused.message
        assert "re-key it" in refused.message


async def test_exhausted_key_still_decrypts_and_its_successor_encrypts(scene: Scene, every_invocation_counts: int):
    client = scene.client()
    key = await client.activated()
    sealed, *_ = [await encrypt(client, key) for _ in range(every_invocation_counts)]
    parts = (Tag.DATA, Tag.IV_COUNTER_NONCE, Tag.AUTHENTICATED_ENCRYPTION_TAG)
    opened = await client.about(Operation.DECRYPT, key, gcm(), *(octets(tag, sealed.value(tag)) for tag in parts))
    assert opened.value(Tag.DATA) == b"the data"
    assert (await client.encrypt(key, b"the data", parameters=cbc())).reason is None
    successor = (await client.about(Operation.REKEY, key)).object_id
    assert COUNT not in (await client.about(Operation.GET_ATTRIBUTES, successor)).attributes
    await client.about(Operation.ACTIVATE, successor)
    assert (await encrypt(client, successor)).reason is None


async def test_nonces_that_the_client_constructs_are_counted_but_not_limited(
    scene: Scene, every_invocation_counts: int
):
    client = scene.client()
    key = await client.activated()
    for number in range(every_invocation_counts + 1):
        assert (await encrypt(client, key, number.to_bytes(12))).reason is None
    assert (await encrypt(client, key)).reason is ResultReason.PERMISSION_DENIED
    # GCM hashes a nonce of another size, so it can collide with any other.
    assert (await encrypt(client, key, bytes(16))).reason is ResultReason.PERMISSION_DENIED


@pytest.mark.usefixtures("every_invocation_counts")
async def test_client_reads_the_count_but_cannot_change_it(scene: Scene):
    client = scene.client()
    key = await client.activated()
    await encrypt(client, key)
    for operation in (Operation.ADD_ATTRIBUTE, Operation.MODIFY_ATTRIBUTE):
        answer = await client.about(operation, key, attribute(COUNT, long(VALUE, 0)))
        assert answer.reason is ResultReason.PERMISSION_DENIED
    assert (await client.about(Operation.GET_ATTRIBUTES, key)).attributes[COUNT] == 1


async def test_encryption_outside_the_sample_writes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    client = scene.client()
    key = await client.activated()
    assert (await encrypt(client, key)).reason is None

    async def change(*_: object) -> None:
        pytest.fail("the object was changed")

    monkeypatch.setattr(invocation_limit, "SAMPLE_BYTES", 16)
    monkeypatch.setattr(ObjectStore, "change", change)
    assert (await encrypt(client, key)).reason is None


def test_sample_almost_never_permits_more_than_2_to_the_32():
    """The Poisson probability that 2^32 invocations are counted as less than the limit, bounded by its last term."""
    weight = 256**invocation_limit.SAMPLE_BYTES
    mean, most = 2**32 / weight, invocation_limit.MOST_INVOCATIONS // weight
    last = exp(most * log(mean) - mean - lgamma(most + 1))
    # Below the mean each term is smaller than the next by the factor most / mean, a geometric series.
    assert last / (1 - most / mean) < 1e-50
