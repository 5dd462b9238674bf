"""A stock application for `protected_mongodb`: runs blocks of requests according to JSON lines on stdin.

It does not use OpenKCM, and runs plain and under `openkcm run`. `large` replaces its texts with bytes of the length
that their ciphertexts have.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from bson.binary import Binary
from pymongo import MongoClient

RANGE = 500
_FIELDS = ("a", "b", "c", "d")
_AROUND = 60
"""Bytes that a ciphertext is longer than its text: 6 of BSON, and 54 of the format of protected values."""
_SUBTYPE = 0xC7


class Application:
    def __init__(self) -> None:
        self._client: MongoClient[Any] | None = None

    @property
    def bench(self) -> Any:
        assert self._client is not None
        return self._client["bench"]

    def connect(self, conninfo: str) -> int:
        """Return this process: the server serves both programs and has its processor already."""
        if self._client is not None:
            self._client.close()
        self._client = MongoClient(conninfo, directConnection=True)
        self._client.admin.command("ping")
        return os.getpid()

    def fill(self, table: str, rows: int, size: int, *, large: bool) -> None:
        """Store documents with ids from 1, and read all of them once, so that all caches are warm."""
        collection = self.bench[table]
        for first in range(1, rows + 1, RANGE):
            collection.insert_many(
                [{"_id": number} | _values(size, large=large) for number in range(first, first + RANGE)]
            )
        assert len(list(collection.find())) >= rows

    def block(self, workload: str, table: str, rows: int, size: int, count: int, *, large: bool) -> list[int]:
        """Return the duration of each request in nanoseconds, including the documents."""
        request = _WORKLOADS[workload]
        collection = self.bench["other" if workload == "nothing protected" else table]
        asked = [(1 + (number * 7919) % (rows - RANGE), _values(size, large=large)) for number in range(count)]
        clock, took = time.perf_counter_ns, []
        for key, values in asked:
            begun = clock()
            request(collection, key, values)
            took.append(clock() - begun)
        return took


_WORKLOADS: dict[str, Callable[[Any, int, dict[str, Any]], Any]] = {
    "nothing protected": lambda collection, key, _: collection.find_one({"_id": key}),
    "find, 1 field": lambda collection, key, _: collection.find_one({"_id": key}, {"a": 1}),
    "find, 4 fields": lambda collection, key, _: collection.find_one({"_id": key}),
    "insert, 4 fields": lambda collection, _, values: collection.insert_one(values),
    "update by _id, 1 field": lambda collection, key, values: collection.update_one(
        {"_id": key}, {"$set": {"a": values["a"]}}
    ),
    "find, 500 documents of 4 fields": lambda collection, key, _: list(
        collection.find({"_id": {"$gte": key, "$lt": key + RANGE}}, batch_size=RANGE)
    ),
}


def _values(size: int, *, large: bool) -> dict[str, Any]:
    if large:
        return {name: Binary(secrets.token_bytes(size + _AROUND), _SUBTYPE) for name in _FIELDS}
    return {name: secrets.token_hex(size // 2) for name in _FIELDS}


def main() -> None:
    application = Application()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(application, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
