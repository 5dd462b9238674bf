"""Cost of field encryption in an application for its MongoDB requests: plain and protected, in turns."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymongo
from matplotlib.figure import Figure
from pymongo import MongoClient
from pymongo.collection import Collection

from tests.benchmarks.field_encryption.mongodb_app import RANGE
from tests.benchmarks.harness.ab_runner import Cases, compare, network, plot, relayed, sides
from tests.benchmarks.harness.service_fixture import connected_stack
from tests.benchmarks.report import Check, Result
from tests.e2e.integrations.mongo import mongo_server

_TENANT = "bench-corp-1"
_PROGRAM = Path(__file__).with_name("mongodb_app.py")
SIZES = (32, 1024)
_DELAYS = (0.0, 0.5, 2.0)
_POINTS = (
    "nothing protected",
    "find, 1 field",
    "find, 4 fields",
    "insert, 4 fields",
    "update by _id, 1 field",
)
_RANGE = "find, 500 documents of 4 fields"
_PROMISED_MS = 2.0
"""The target applies to requests of this duration and longer."""
_LIMIT = 5.0
_PROTOCOL = (
    "One stack, one tenant, one service of kind mongodb. The server is SecantusDB, which speaks MongoDB's protocol on "
    "WiredTiger and keeps all data in memory: mongod is not available from a registry here. The duration of a request "
    "without protection is part of each figure. The same program "
    "(tests/benchmarks/field_encryption/mongodb_app.py, pymongo "
    "{pymongo}, one client) runs three times, each on separate collections: plain and under `openkcm run` with equal "
    "contents, {rows} documents of four texts, and plain with bytes as long as the ciphertexts of these texts, which "
    "shows what the server and the driver need for larger values. Each program writes its documents and reads them "
    "once before the measurement, so "
    "that the field keys are in the cache; as usual, they are unwrapped again every 30 s. They take turns in blocks "
    "of {points} requests ({ranges} where {range} documents are read), {rounds} rounds after one that does not count, "
    "and the order changes with each round. The programs and the server are pinned to one processor, and the relay to "
    "another. A request's time is from the call to the last document. A block counts with its median, a side with the "
    "median of its blocks. Also stated are the range of the middle half of the rounds, and the time of the plain "
    "request from which the added time is less than 5 %. All over loopback, and then with a relay for both "
    "sides "
    "(tests/benchmarks/harness/delay_relay.py) that adds a round trip of 0.5 and 2 ms and its own overhead, as "
    "a network would."
)


@dataclass(frozen=True)
class Plan:
    """The amount of work: documents of each collection, rounds, and requests of a block."""

    rows: int = 2000
    rounds: int = 15
    points: int = 60
    ranges: int = 4


def run(*, quick: bool) -> tuple[Result, Figure]:
    plan = Plan(rounds=2, points=10, ranges=2) if quick else Plan()
    with connected_stack(_TENANT, "mongodb") as (stack, folder), _server(stack.folder) as address:
        for size in SIZES:
            for field in "abcd":
                stack.openkcm("service", "protect-field", _TENANT, "bench", f"bench.protected_{size}", field)
        found = measure(address, folder, _DELAYS, plan)
    result = Result(
        name="protected_mongodb",
        title="MongoDB: fields encrypted inside the application",
        quick=quick,
        protocol=_PROTOCOL.format(pymongo=pymongo.version, range=RANGE, **asdict(plan)),
        checks=[
            Check(f"{workload}, {size} bytes, {network(delay)}", round(one.overhead, 1), _LIMIT, "%")
            for (size, delay, workload), one in found.items()
            if one.base >= _PROMISED_MS and workload in _POINTS
        ],
        summary={
            f"{workload}, {size} bytes, {network(delay)}": one.summary()
            for (size, delay, workload), one in found.items()
        },
        samples={
            f"{workload}, {size} bytes, {network(delay)}": {
                "plain": one.plain,
                "protected": one.protected,
                "large": one.large,
            }
            for (size, delay, workload), one in found.items()
        },
    )
    title = "What protection adds to a request, values of 32 bytes"
    return result, plot(found, (*_POINTS, _RANGE), _DELAYS, SIZES[0], _LIMIT, title)


def measure(address: str, folder: Path, delays: Sequence[float], plan: Plan) -> Cases:
    """Create the collections in an empty database and compare the sides."""
    found: Cases = {}
    port = int(urlsplit(address).port or 0)
    client: MongoClient[dict[str, Any]] = MongoClient(address)
    with client:
        client["bench"]["other"].insert_many([{"_id": number, "a": "a"} for number in range(1, plan.rows + 1)])
    with sides(_PROGRAM, folder, "large") as programs:
        for name, side in programs.items():
            side.connect(address)
            for size in SIZES:
                side.do("fill", table=f"{name}_{size}", rows=plan.rows, size=size, large=name == "large")
        with MongoClient(address) as client:
            for size in SIZES:
                named: list[Collection[dict[str, Any]]] = [
                    client["bench"][f"{name}_{size}"] for name in ("large", "protected")
                ]
                lengths = {len(one["a"]) for collection in named for one in collection.find({"_id": 1})}
                assert len(lengths) == 1, "`large` must be as long as a ciphertext"
        for delay in delays:
            with relayed(port, delay) as reached:
                for side in programs.values():
                    side.connect(f"mongodb://127.0.0.1:{reached}")
                for size in SIZES:
                    for workload in (*_POINTS, _RANGE):
                        count = plan.ranges if workload == _RANGE else plan.points
                        block = {"workload": workload, "rows": plan.rows, "size": size, "count": count}
                        how = {name: block | {"table": f"{name}_{size}", "large": name == "large"} for name in programs}
                        found[size, delay, workload] = compare(programs, how, plan.rounds)
    return found


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Run the server on the processor of the programs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    with mongo_server(folder) as address:
        os.sched_setaffinity(0, before)
        yield address
