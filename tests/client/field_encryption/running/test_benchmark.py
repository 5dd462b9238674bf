"""The benchmarks of protected statements and requests run and compare both sides; their figures are not used."""

import psycopg
import pytest
from pymongo import MongoClient

from openkcm.contract.protected_fields import Mode
from openkcm.field_encryption.mongodb.encryption import SUBTYPE
from tests.benchmarks.field_encryption import mongodb as protected_mongodb
from tests.benchmarks.field_encryption import postgresql as protected_postgresql

pytestmark = pytest.mark.full


def assert_compared(found) -> None:
    """Assert that each measurement has both sides, and is not faster than its configured delay."""
    assert len(found) == 2 * 2 * 6
    for (_, delay, _), one in found.items():
        assert len(one.plain) == len(one.protected) == 2
        assert one.base >= delay
        assert one.summary()["plain (ms)"] > 0


def test_postgresql_benchmark_does_the_same_work_on_both_sides_and_encrypts_one(program):
    plan = protected_postgresql.Plan(rows=600, rounds=2, points=3, ranges=1)
    found = protected_postgresql.measure(program.conninfo, program.folder, (0.0, 1.0), plan)
    with psycopg.connect(program.conninfo) as owner:
        for size in (32, 1024):
            for side in ("plain", "protected"):
                rows = owner.execute(f"SELECT a, d FROM {side}_{size} ORDER BY id").fetchall()
                assert len(rows) == 600 + 2 * 3 * 3
                assert {value[:8] == "okcm:c1:" for row in rows for value in row} == {side == "protected"}
    assert_compared(found)


def test_mongodb_benchmark_does_the_same_work_on_both_sides_and_encrypts_one(mongo_program):
    sizes, plan = protected_mongodb.SIZES, protected_mongodb.Plan(rows=1000, rounds=2, points=3, ranges=1)
    for size in sizes:
        mongo_program.protect(f"bench.protected_{size}", **dict.fromkeys("abcd", Mode.RANDOMISED))
    with MongoClient(mongo_program.conninfo) as client:
        client.drop_database("bench")
        found = protected_mongodb.measure(mongo_program.conninfo, mongo_program.folder, (0.0, 1.0), plan)
        for size in sizes:
            for side in ("plain", "large", "protected"):
                values = [one[name] for one in client.bench[f"{side}_{size}"].find() for name in "ad"]
                assert len(values) == 2 * (1000 + 2 * 3 * 3)
                assert {getattr(value, "subtype", None) == SUBTYPE for value in values} == {side != "plain"}
        client.drop_database("bench")
    assert_compared(found)
    assert all(len(one.large) == 2 for one in found.values())
