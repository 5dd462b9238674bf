"""A backfill beside an application: short row locks, no lost rows, and waiting for unavailable servers."""

import time

import psycopg
import pytest

from openkcm.contract.protected_fields import Backfill
from openkcm.field_encryption.backfill.table_scan import BatchSize, RateLimiter
from openkcm.field_encryption.errors import BackfillRefused, BackfillRunning, BackfillStopped
from tests.client.field_encryption.backfill.stage import FIELDS, PLAIN, Stage
from tests.concurrency import wait_until

# Only the database of this test: other databases of the server may have backfills as well.
ENDED = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'openkcm backfill' AND datname = current_database()"
)
LEFT = "SELECT count(*) FROM patients WHERE diagnosis LIKE 'diag%'"


def test_row_locked_by_the_application_is_skipped_and_keeps_its_new_value(stage: Stage):
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


def test_second_backfill_on_the_same_table_is_rejected_until_the_first_ends(stage: Stage, monkeypatch):
    stage.patients()
    monkeypatch.setattr("openkcm.field_encryption.backfill.connection._LOCK_SECONDS", 0.3)
    with stage.beside(rows_per_second=40.0, batch=10) as first:
        wait_until(lambda: bool(first.tables and first.tables[0].rows))
        with pytest.raises(BackfillRunning, match=r"public\.patients"):
            stage.backfill()
    assert first.tables[0].is_whole
    assert stage.backfill()[0].is_whole


def test_two_backfills_without_the_table_lock_change_no_row_twice(stage: Stage, monkeypatch):
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


def test_backfill_survives_repeated_connection_loss(stage: Stage):
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


def test_backfill_waits_for_the_crypto_service_without_row_locks_and_continues(stage: Stage):
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


def test_permanent_outage_ends_the_backfill_in_bounded_time_with_a_reason(stage: Stage):
    stage.patients()
    stage.stand.keys.up = False
    with pytest.raises(BackfillStopped, match="connection_failed"):
        stage.backfill(wait_seconds=1.0)
    with pytest.raises(BackfillRefused, match="not reachable"):
        stage.backfill(conninfo="host=127.0.0.1 port=1 password=hidden")
    with pytest.raises(BackfillRefused) as refused:
        stage.backfill(conninfo="hidden")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("ended", [False, True], ids=["connected", "connection ended"])
def test_unusable_key_table_is_rejected_with_a_reason_and_changes_nothing(stage: Stage, monkeypatch, ended):
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


def test_stopped_backfill_ends_after_a_batch_and_another_continues(stage: Stage):
    stage.patients()
    run = stage.run(
        rows_per_second=100.0, batch=5, update=lambda: run.tables and run.tables[0].rows and stage.stop.set()
    )
    with pytest.raises(BackfillStopped, match="stopped by a signal"):
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
def test_changed_protection_stops_the_backfill(stage: Stage, monkeypatch, change):
    stage.patients()
    monkeypatch.setattr("openkcm.field_encryption.backfill.table_scan._WINDOW", 50)
    left: list[int] = []

    def update() -> None:
        if run.tables and run.tables[0].rows and not left:
            change(stage)
            left.append(run.tables[0].columns["diagnosis"].left)

    run = stage.run(update=update, batch=20)
    with pytest.raises(BackfillStopped, match="changed during the backfill"):
        run.run()
    assert run.tables[0].rows == 50
    assert left == [231]


def test_backfill_delays_an_application_only_briefly(stage: Stage):
    """A schema change that waits for a lock must not make the application wait behind it for long."""
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


def test_row_rate_limit_is_not_exceeded(stage: Stage):
    stage.patients()
    begun = time.monotonic()
    [table] = stage.backfill(rows_per_second=100.0, batch=20)
    assert table.rows == 251
    assert time.monotonic() - begun >= 2.4
    assert stage.stand.stored(PLAIN)[0][2].startswith("okcm:c1:")


def test_large_values_are_read_in_small_batches():
    batch_size = BatchSize(1000)
    sizes = [batch_size.rows]
    for size in (10, 10, 10, 4 << 20, 64 << 20, 10):
        batch_size.saw(batch_size.rows, batch_size.rows * size)
        sizes.append(batch_size.rows)
    assert sizes == [20, 80, 320, 1000, 2, 1, 4]


def test_rate_is_reduced_for_a_slow_database_and_recovers():
    limiter = RateLimiter(100.0)
    assert limiter.batch(500) == 100
    assert limiter.pause(50, 0.1) == pytest.approx(0.4)
    for _ in range(5):
        limiter.pause(50, 2.0)
    slow = limiter.rows_per_second
    assert slow < 5
    assert limiter.batch(500) == int(slow)
    assert limiter.pause(3, 0.9) > 0
    for _ in range(60):
        limiter.pause(50, 0.1)
    assert limiter.rows_per_second == 100.0
    assert limiter.pause(0, 5.0) == 0
