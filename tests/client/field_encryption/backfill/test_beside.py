"""Beside an application at work: no row is waited for long, none is lost, and what is away is waited for."""

import time

import psycopg
import pytest

from openkcm.contract.protected_fields import Backfill
from openkcm.field_encryption.backfill.table_scan import BatchSize, RateLimiter
from openkcm.field_encryption.errors import BackfillRefused, BackfillRunning, BackfillStopped
from tests.client.field_encryption.backfill.stage import FIELDS, PLAIN, Stage
from tests.concurrency import wait_until

# Of this test's own database: others of the same server have backfills at work too.
ENDED = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'openkcm backfill' AND datname = current_database()"
)
LEFT = "SELECT count(*) FROM patients WHERE diagnosis LIKE 'diag%'"


def test_a_row_that_the_application_holds_is_left_for_later_and_what_it_wrote_stays(stage: Stage):
    stage.patients()
    with stage.stand.hooked():
        application = stage.stand.connect()
        application.execute("UPDATE patients SET diagnosis = 'newer' WHERE id = 5")
        application.execute("SELECT 1 FROM patients WHERE id = 6 FOR UPDATE")
    with stage.beside() as run:
        wait_until(lambda: stage.stand.stored(LEFT) == [("2",)])
        application.commit()
    application.close()
    assert run.tables[0].is_whole
    assert stage.read("SELECT id, diagnosis FROM patients WHERE id IN (5, 6) ORDER BY id") == [
        (5, "newer"),
        (6, "diagnosis 6"),
    ]


def test_a_second_one_on_the_same_table_is_told_so_and_goes_on_afterwards(stage: Stage, monkeypatch):
    stage.patients()
    monkeypatch.setattr("openkcm.field_encryption.backfill.connection._LOCK_SECONDS", 0.3)
    with stage.beside(rows_per_second=40.0, batch=10) as first:
        wait_until(lambda: bool(first.tables and first.tables[0].rows))
        with pytest.raises(BackfillRunning, match=r"public\.patients"):
            stage.backfill()
    assert first.tables[0].is_whole
    assert stage.backfill()[0].is_whole


def test_two_that_know_nothing_of_each_other_do_no_row_twice(stage: Stage, monkeypatch):
    stage.patients()
    monkeypatch.setattr("openkcm.field_encryption.backfill.connection.RetryingConnection._lock", lambda *_: None)
    stage.stand.stored("CREATE TABLE stores (id bigint); ")
    stage.stand.stored(
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO stores VALUES (NEW.id); RETURN NEW; END'"
    )
    stage.stand.stored("CREATE TRIGGER noted BEFORE UPDATE ON patients FOR EACH ROW EXECUTE FUNCTION noted()")
    with stage.beside(batch=5) as first, stage.beside(batch=3) as second:
        pass
    assert first.tables[0].is_whole
    assert second.tables[0].is_whole
    assert stage.stand.stored("SELECT count(*), count(DISTINCT id) FROM stores") == [("251", "251")]


def test_a_connection_that_is_ended_again_and_again_costs_nothing_but_time(stage: Stage):
    before = stage.patients()
    with stage.beside(rows_per_second=150.0, batch=5) as run:
        wait_until(lambda: bool(run.tables and run.tables[0].rows))
        for _ in range(5):
            done = run.tables[0].rows
            stage.stand.stored(ENDED)
            wait_until(lambda done=done: run.tables[0].rows > done)
    assert run.tables[0].is_whole
    read = stage.read("SELECT id, diagnosis FROM patients ORDER BY id")
    assert read == [(int(row[0]), row[2]) for row in before]


def test_without_the_crypto_service_it_waits_holds_no_row_and_goes_on(stage: Stage):
    stage.patients()
    with stage.beside(rows_per_second=200.0, batch=5, key_seconds=0.5) as run:
        wait_until(lambda: bool(run.tables and run.tables[0].rows))
        stage.stand.keys.up = False
        wait_until(lambda: run.tables[0].state is Backfill.WAITING)
        assert run.tables[0].waits_for == "connection_failed"
        left = stage.stand.stored(LEFT)
        assert left != [("0",)]
        stage.stand.stored("BEGIN; SELECT 1 FROM patients FOR UPDATE NOWAIT; COMMIT")
        assert stage.stand.stored(LEFT) == left
        stage.stand.keys.up = True
    assert run.tables[0].is_whole


def test_what_stays_away_ends_it_in_bounded_time_and_said(stage: Stage):
    stage.patients()
    stage.stand.keys.up = False
    with pytest.raises(BackfillStopped, match="connection_failed"):
        stage.backfill(wait_seconds=1.0)
    with pytest.raises(BackfillRefused, match="not reached"):
        stage.backfill(conninfo="host=127.0.0.1 port=1 password=hidden")
    with pytest.raises(BackfillRefused) as refused:
        stage.backfill(conninfo="hidden")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("ended", [False, True], ids=["connected", "connection ended"])
def test_a_key_table_that_cannot_be_used_refuses_it_with_the_reason_and_changes_nothing(
    stage: Stage, monkeypatch, ended
):
    before, make = stage.patients(), stage.stand.keys.make

    def make_beside_an_unusable_table(resource: str) -> str:
        stage.stand.stored("CREATE SCHEMA openkcm; CREATE TABLE openkcm.column_key (place text)")
        if ended:
            stage.stand.stored(ENDED)
        return make(resource)

    monkeypatch.setattr(stage.stand.keys, "make", make_beside_an_unusable_table)
    with pytest.raises(BackfillRefused, match=r"column_key cannot be used: .*\(key_table_unusable\)") as refused:
        stage.backfill()
    assert "docs/postgresql.md" in str(refused.value.hint)
    assert stage.stand.stored(PLAIN) == before


def test_told_to_stop_it_ends_after_a_batch_and_another_goes_on(stage: Stage):
    stage.patients()
    run = stage.run(rows_per_second=100.0, batch=5, tell=lambda: run.tables and run.tables[0].rows and stage.stop.set())
    with pytest.raises(BackfillStopped, match="told to stop"):
        run.run()
    assert run.tables[0].state is Backfill.STOPPED
    assert stage.stand.stored(LEFT) == [("245",)]
    stage.stop.clear()
    [table] = stage.backfill()
    assert (table.rows, table.is_whole) == (246, True)


CHANGES = [
    lambda stage: stage.stand.protect(*FIELDS[1:]),
    lambda stage: stage.stand.stored("ALTER TABLE patients ADD COLUMN more text"),
]


@pytest.mark.parametrize("change", CHANGES, ids=["the list", "the table"])
def test_what_is_protected_otherwise_meanwhile_is_not_gone_on_with(stage: Stage, monkeypatch, change):
    stage.patients()
    monkeypatch.setattr("openkcm.field_encryption.backfill.table_scan._WINDOW", 50)
    left: list[int] = []

    def tell() -> None:
        if run.tables and run.tables[0].rows and not left:
            change(stage)
            left.append(run.tables[0].columns["diagnosis"].left)

    run = stage.run(tell=tell, batch=20)
    with pytest.raises(BackfillStopped, match="was changed meanwhile"):
        run.run()
    assert run.tables[0].rows == 50
    assert left == [231]


def test_it_holds_an_application_up_for_a_moment_at_most(stage: Stage):
    """A change of the table's structure that waits must not make the application wait behind it for long."""
    stage.patients()
    with psycopg.connect(stage.stand.conninfo) as changing, stage.beside(rows_per_second=200.0, batch=5) as run:
        wait_until(lambda: bool(run.tables and run.tables[0].rows))
        changing.execute("LOCK TABLE patients IN ACCESS EXCLUSIVE MODE")
        waiting = (
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid)"
            " WHERE NOT l.granted AND datname = current_database()"
        )
        wait_until(lambda: stage.stand.stored(waiting) == [("1",)])
        wait_until(lambda: stage.stand.stored(waiting) == [("0",)])
        changing.commit()
    assert run.tables[0].is_whole


def test_rows_a_second_are_not_exceeded(stage: Stage):
    stage.patients()
    begun = time.monotonic()
    [table] = stage.backfill(rows_per_second=100.0, batch=20)
    assert table.rows == 251
    assert time.monotonic() - begun >= 2.4
    assert stage.stand.stored(PLAIN)[0][2].startswith("okcm:c1:")


def test_large_values_are_read_few_at_a_time():
    portion = BatchSize(1000)
    sizes = [portion.rows]
    for size in (10, 10, 10, 4 << 20, 64 << 20, 10):
        portion.saw(portion.rows, portion.rows * size)
        sizes.append(portion.rows)
    assert sizes == [20, 80, 320, 1000, 2, 1, 4]


def test_the_pace_follows_a_database_that_gets_slow_and_recovers():
    pace = RateLimiter(100.0)
    assert pace.batch(500) == 100
    assert pace.pause(50, 0.1) == pytest.approx(0.4)
    for _ in range(5):
        pace.pause(50, 2.0)
    slow = pace.rows_per_second
    assert slow < 5
    assert pace.batch(500) == int(slow)
    assert pace.pause(3, 0.9) > 0
    for _ in range(60):
        pace.pause(50, 0.1)
    assert pace.rows_per_second == 100.0
    assert pace.pause(0, 5.0) == 0
