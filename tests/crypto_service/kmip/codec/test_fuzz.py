"""A short run of the fuzzer (long run: tests/benchmarks/fuzzing/fuzz.py), and the inputs of the corpus."""

import asyncio
import struct
import time
from pathlib import Path

import pytest

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.tags import Tag
from tests.benchmarks.fuzzing.in_memory_server import LIMIT, KmipStand
from tests.benchmarks.fuzzing.mutations import Mutator
from tests.benchmarks.fuzzing.run import fuzz, seeds
from tests.crypto_service.kmip.messages import encoded
from tests.crypto_service.kmip.scene import Answered, Scene

pytestmark = pytest.mark.integration

KEPT = [line.split("#")[0].split() for line in Path(__file__).with_name("corpus.txt").read_text("ascii").splitlines()]
REQUEST = encoded()[:4]


@pytest.mark.parametrize("inputs", [600, pytest.param(4_000, marks=pytest.mark.full)])
def test_mutated_requests_cause_no_internal_error(inputs: int):
    account = fuzz(inputs, seed=1)
    assert account.errors == []
    assert account.answered > account.inputs // 2


@pytest.mark.parametrize("requests", [150, pytest.param(1_000, marks=pytest.mark.full)])
async def test_mutated_requests_cause_no_internal_error_in_the_database(scene: Scene, requests: int):
    client = scene.client()
    mutator = Mutator(seeds([await client.activated(mask=0xFFFFF)]), seed=1)
    for _ in range(requests):
        response = await client.send(ttlv.decode(mutator.message()))
        for item in response.all(Tag.BATCH_ITEM):
            refused = Answered(item)
            assert refused.reason is not ResultReason.GENERAL_FAILURE or "tag length" in refused.message


@pytest.mark.parametrize("pieces", [kept for kept in KEPT if kept])
def test_corpus_causes_no_internal_error(pieces):
    errors, answer = exchange([bytes.fromhex(piece) for piece in pieces])
    while answer:
        size = int.from_bytes(answer[4:8], "big") + 8
        ttlv.decode(answer[:size])
        answer = answer[size:]
    assert errors == []


def bombs() -> dict[str, bytes]:
    deep = b"".join(b"\x42\x00\x79\x01" + struct.pack(">I", 8 * (9_999 - n)) for n in range(10_000))
    items = b"\x42\x00\x0f\x07\0\0\0\0" * (LIMIT // 8 - 1)
    zeros = bytes(LIMIT - 8)
    batch = encoded()[8:64] + encoded()[64:] * 5_000
    return {
        name: REQUEST + struct.pack(">I", len(body)) + body
        for name, body in {"depth": deep, "items": items, "zeros": zeros, "batch": batch}.items()
    }


@pytest.mark.parametrize("name", ["depth", "items", "zeros", "batch"])
def test_largest_message_needs_little_cpu_time(name):
    data = bombs()[name]
    assert len(data) <= LIMIT
    began = time.thread_time()
    errors, _ = exchange([data])
    assert time.thread_time() - began < 10  # a quadratic parser takes minutes
    assert errors == []


def test_thousands_of_pipelined_requests_are_answered():
    _, answers = exchange([encoded() * 3_000])
    _, answer = exchange([encoded()])
    assert len(answers) == 3_000 * len(answer)


def exchange(pieces: list[bytes]) -> tuple[list[str], bytes]:
    """Send pieces over one connection; return the internal errors and the responses."""

    async def run() -> tuple[list[str], bytes]:
        stand = KmipStand()
        answer = await stand.send(pieces)
        stand.stop()
        return stand.errors, answer

    return asyncio.run(run())
