"""The benchmark of protected statements runs and compares what it says; its figures are of no use here."""

import psycopg
import pytest

from benchmarks.protected_postgresql import Plan, measure


@pytest.mark.full
def test_both_sides_do_the_same_work_and_one_of_them_encrypts(program):
    found = measure(program.conninfo, program.folder, (0.0, 1.0), Plan(rows=600, rounds=2, points=3, ranges=1))
    with psycopg.connect(program.conninfo) as owner:
        for size in (32, 1024):
            counts = []
            for side in ("plain", "protected"):
                rows = owner.execute(f"SELECT a, d FROM {side}_{size} ORDER BY id").fetchall()
                counts.append(len(rows))
                assert {value[:8] == "okcm:c1:" for row in rows for value in row} == {side == "protected"}
            assert counts == [600 + 2 * 3 * 3] * 2
    assert len(found) == 2 * 2 * 6
    for (_, delay, _), one in found.items():
        assert len(one.plain) == len(one.protected) == 2
        assert one.base >= delay
        assert one.summary()["plain (ms)"] > 0
