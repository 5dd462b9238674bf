"""A short run of the fuzzer (its long one: benchmarks/fuzz_kmip.py), and the inputs that are kept."""

import asyncio
import struct
from pathlib import Path

import pytest

from benchmarks.kmip_fuzzing import fuzz
from benchmarks.kmip_stand import LIMIT, Stand
from crypto.kmip import ttlv
from tests.crypto.kmip.messages import encoded

KEPT = [line.split("#")[0].split() for line in Path(__file__).with_name("corpus.txt").read_text("ascii").splitlines()]
REQUEST = encoded()[:4]


def test_mutated_requests_break_nothing():
    account = fuzz(4_000, seed=1)
    assert account.errors == []
    assert account.answered > account.inputs // 2
    assert account.slowest_seconds < 0.5


@pytest.mark.parametrize("pieces", [kept for kept in KEPT if kept])
def test_what_was_worth_keeping_still_breaks_nothing(pieces):
    assert sent([bytes.fromhex(piece) for piece in pieces]) == []


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
def test_a_bomb_is_refused_in_no_time(name):
    data = bombs()[name]
    assert len(data) <= LIMIT

    async def run() -> None:
        stand = Stand()
        clock = asyncio.get_running_loop().time
        began = clock()
        await stand.send([data])
        assert clock() - began < 2
        assert stand.errors == []
        stand.stop()

    asyncio.run(run())


def test_ten_thousand_requests_at_once_are_all_answered():
    async def run() -> int:
        stand = Stand()
        answers = await stand.send([encoded() * 10_000])
        stand.stop()
        return len(answers)

    async def one() -> int:
        stand = Stand()
        answer = await stand.send([encoded()])
        stand.stop()
        return len(answer)

    assert asyncio.run(run()) == 10_000 * asyncio.run(one())


def sent(pieces: list[bytes]) -> list[str]:
    async def run() -> list[str]:
        stand = Stand()
        answer = await stand.send(pieces)
        while answer:
            size = int.from_bytes(answer[4:8], "big") + 8
            ttlv.decode(answer[:size])
            answer = answer[size:]
        stand.stop()
        return stand.errors

    return asyncio.run(run())
