"""Fuzz target of the TTLV decoder for atheris: `python -m tests.benchmarks.fuzzing.decoder_target CORPUS -runs=N`.

libFuzzer ends the process: with status 0 after its runs, otherwise after a crash, a hang or too much memory.
"""

import sys

import atheris

with atheris.instrument_imports():
    from crypto_service.kmip.codec import ttlv

from crypto_service.kmip.codec.ttlv import Item, ItemType


def one_input(data: bytes) -> None:
    try:
        item = ttlv.decode(data)
    except ttlv.TtlvError:
        return
    written = ttlv.encode(item)
    assert ttlv.decode(written) == item
    if not _holds_big_integer(item):  # a big integer may have more sign bytes than necessary
        assert written == data


def _holds_big_integer(item: Item) -> bool:
    return item.type is ItemType.BIG_INTEGER or any(map(_holds_big_integer, item.children()))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
