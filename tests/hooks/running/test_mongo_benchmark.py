"""The benchmark of protected requests runs and compares what it says; its figures are of no use here."""

import pytest
from pymongo import MongoClient

from benchmarks.protected_mongodb import SIZES, Plan, measure
from hooks.mongodb.sealing import SUBTYPE
from tenancy.protection import Mode


@pytest.mark.full
def test_both_sides_do_the_same_work_and_one_of_them_encrypts(mongo_program):
    for size in SIZES:
        modes = dict.fromkeys("abcd", Mode.RANDOMISED)
        mongo_program.protect(mongo_program.home, "clinic", f"bench.protected_{size}", **modes)
    with MongoClient(mongo_program.conninfo) as client:
        client.drop_database("bench")
        plan = Plan(rows=1000, rounds=2, points=3, ranges=1)
        found = measure(mongo_program.conninfo, mongo_program.folder, (0.0, 1.0), plan)
        for size in SIZES:
            counts = []
            for side in ("plain", "protected"):
                values = [one[name] for one in client.bench[f"{side}_{size}"].find() for name in "ad"]
                counts.append(len(values))
                assert {getattr(value, "subtype", None) == SUBTYPE for value in values} == {side == "protected"}
            assert counts == [2 * (1000 + 2 * 3 * 3)] * 2
        client.drop_database("bench")
    assert len(found) == 2 * 2 * 6
    for (_, delay, _), one in found.items():
        assert len(one.plain) == len(one.protected) == 2
        assert one.base >= delay
