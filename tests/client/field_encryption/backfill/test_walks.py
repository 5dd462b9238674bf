"""Columns and keys of every kind are encrypted in place, once, and read back by the application; undo reverses it."""

import pytest

from openkcm.contract.protected_fields import Backfill
from openkcm.field_encryption.errors import BackfillRefused
from tests.client.field_encryption.backfill.stage import FIELDS, PATIENTS, PLAIN, Stage

READ = "SELECT id, name, diagnosis, insurance, photo FROM patients ORDER BY id"


def as_read(rows: list[tuple]) -> list[tuple]:
    return [(int(i), name, d, s, None if p is None else bytes.fromhex(p)) for i, name, d, s, p in rows]


def test_all_values_are_encrypted_and_the_application_reads_them_unchanged(stage: Stage):
    before = stage.patients()
    [table] = stage.backfill()
    assert (table.state, table.rows, table.is_whole) == (Backfill.FINISHED, 251, True)
    assert [(one.done, one.left, one.read_back) for one in table.columns.values()] == [(251, 0, 251)] * 3
    stored = stage.stand.stored(PLAIN)
    assert {(d[:8], s[:8], p[:12]) for _, _, d, s, p in stored if d is not None} == {
        ("okcm:c1:", "okcm:c2:", "006f6b636d01")
    }
    assert [row[:2] for row in stored] == [row[:2] for row in before]
    assert (stored[250][0], *stored[250][2:]) == ("1000", None, None, None)
    stage.stand.protect(*({**one, "plaintext_allowed": False} for one in FIELDS))
    assert stage.read(READ) == as_read(before)
    assert len(stage.read("SELECT id FROM patients WHERE insurance = 'A-3'")) == 36
    [again] = stage.backfill()
    assert (again.rows, again.is_whole) == (0, True)
    assert stage.stand.stored(PLAIN) == stored


KEYS = [
    ("int", "a int, b smallint", "a, b", "SELECT n / 10, n % 10"),
    ("text", "b text, a varchar(40)", "b, a", """SELECT 'it''s 100% "q" \\ ' || n, 'ü' || n"""),
    ("uuid", "a uuid", "a", "SELECT md5(n::text)::uuid"),
    ("bytea", "a bytea, b text", "b, a", "SELECT decode(md5(n::text), 'hex'), n % 2"),
]


@pytest.mark.parametrize(("_name", "columns", "key", "query"), KEYS, ids=[one[0] for one in KEYS])
def test_every_supported_kind_of_primary_key_is_processed(stage: Stage, _name, columns, key, query):
    stage.stand.stored('CREATE SCHEMA "odd.one"')
    name = '"odd.one"."T%s ""x"""'
    stage.stand.stored(f'CREATE TABLE {name} ({columns}, "c%s" text, PRIMARY KEY ({key}))')
    stage.stand.stored(f"INSERT INTO {name} {query}, 'value ' || n FROM generate_series(1, 95) n")
    stage.stand.stored(f"""COMMENT ON COLUMN {name}."c%s" IS 'openkcm: encrypt'""")
    [table] = stage.backfill(batch=7)
    assert (table.rows, table.is_whole) == (95, True)
    found = sorted(value for (value,) in stage.read(f'SELECT "c%s" FROM {name}'))
    assert found == sorted(f"value {n}" for n in range(1, 96))


def test_partitioned_table_is_processed_by_its_own_name(stage: Stage):
    stage.stand.stored("CREATE TABLE log (day int, n int, line text, PRIMARY KEY (day, n)) PARTITION BY LIST (day)")
    for day in (1, 2):
        stage.stand.stored(f"CREATE TABLE log_{day} PARTITION OF log FOR VALUES IN ({day})")
    stage.stand.stored("INSERT INTO log SELECT 1 + n % 2, n, 'line' FROM generate_series(1, 50) n")
    stage.stand.stored("COMMENT ON COLUMN log.line IS 'openkcm: encrypt'")
    [table] = stage.backfill()
    assert (table.rows, table.is_whole) == (50, True)
    assert set(stage.read("SELECT line FROM log")) == {("line",)}


@pytest.mark.parametrize("partition", ["archive_2024", "measurements_2024"], ids=["before", "after"])
def test_partition_with_a_copied_comment_is_processed_by_the_name_of_its_parent(stage: Stage, partition: str):
    stage.stand.stored(
        "CREATE TABLE measurements (day int, n int, line text, PRIMARY KEY (day, n)) PARTITION BY LIST (day)"
    )
    stage.stand.stored("COMMENT ON COLUMN measurements.line IS 'openkcm: encrypt'")
    stage.stand.stored(f"CREATE TABLE {partition} (LIKE measurements INCLUDING ALL)")
    stage.stand.stored(f"INSERT INTO {partition} SELECT 2024, n, 'line' FROM generate_series(1, 50) n")
    stage.stand.stored(f"ALTER TABLE measurements ATTACH PARTITION {partition} FOR VALUES IN (2024)")
    [table] = stage.backfill()
    assert (table.table.full_name, table.rows, table.is_whole) == ("public.measurements", 50, True)
    assert stage.read("SELECT line FROM measurements") == [("line",)] * 50
    with pytest.raises(BackfillRefused, match=f"{partition} is a partition of public.measurements: use that name"):
        stage.backfill(table=partition)
    stage.stand.protect({"place": f"public.{partition}", "field": "line"})
    with pytest.raises(BackfillRefused, match="use that name"):
        stage.backfill(undo=True)


def test_undo_restores_all_values(stage: Stage):
    before = stage.patients()
    stage.backfill()
    [table] = stage.backfill(undo=True)
    assert (table.state, table.is_whole) == (Backfill.UNDONE, True)
    assert [one.done for one in table.columns.values()] == [251] * 3
    assert stage.stand.stored(PLAIN) == before


def test_dry_run_counts_and_changes_nothing(stage: Stage):
    before = stage.patients()
    stage.stand.stored("CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    stage.stand.stored("CREATE TRIGGER touched BEFORE UPDATE ON patients FOR EACH ROW EXECUTE FUNCTION touch()")
    stage.stand.stored(
        "CREATE UNIQUE INDEX once ON patients (photo); ALTER TABLE patients ADD CHECK (diagnosis <> 'x')"
    )
    run = stage.run(dry_run=True)
    run.run()
    assert [(one.left, one.done) for one in run.tables[0].columns.values()] == [(251, 0)] * 3
    assert run.tables[0].state is None
    assert run.notes == [
        "public.patients: the trigger touched runs for each row that is stored",
        "public.patients: the constraint patients_diagnosis_check will see ciphertext",
        "public.patients: the unique index once finds no equal values any more",
    ]
    assert stage.stand.stored(PLAIN) == before
    assert stage.stand.stored("SELECT to_regnamespace('openkcm')") == [(None,)]
    assert stage.stand.stored("SELECT count(DISTINCT xmin::text) FROM patients") == [("1",)]
    assert stage.stand.keys.opened == 0


def test_undecryptable_ciphertext_is_reported_and_not_changed(stage: Stage):
    stage.patients()
    stage.backfill()
    stage.stand.stored("UPDATE patients SET diagnosis = (SELECT diagnosis FROM patients WHERE id = 2) WHERE id = 1")
    stage.stand.stored("UPDATE patients SET diagnosis = 'okcm:c1:hello' WHERE id = 3")
    stage.stand.stored("UPDATE patients SET diagnosis = 'plain' WHERE id = 4")
    before = stage.stand.stored("SELECT diagnosis FROM patients WHERE id IN (1, 3) ORDER BY id")
    for undo in (False, True):
        [table] = stage.backfill(undo=undo)
        assert table.columns["diagnosis"].unopened == 2
        assert (table.left, table.is_whole) == (0, False)
        assert stage.stand.stored("SELECT diagnosis FROM patients WHERE id IN (1, 3) ORDER BY id") == before
    assert stage.stand.stored("SELECT diagnosis FROM patients WHERE id = 4") == [("plain",)]


def test_rows_that_the_database_rejects_do_not_block_other_rows(stage: Stage):
    stage.patients()
    stage.stand.stored("ALTER TABLE patients ADD CHECK (id % 100 <> 7 OR diagnosis NOT LIKE 'okcm%')")
    [table] = stage.backfill()
    assert dict(table.refused) == {"23514": 3}
    assert (table.state, table.left, table.rows) == (Backfill.STOPPED, 9, 248)
    stored = stage.stand.stored("SELECT id FROM patients WHERE diagnosis LIKE 'diag%' ORDER BY id")
    assert stored == [("7",), ("107",), ("207",)]


def test_table_that_rejects_every_row_is_stopped_soon(stage: Stage):
    stage.patients()
    stage.stand.stored("ALTER TABLE patients ADD CHECK (diagnosis NOT LIKE 'okcm%')")
    [table] = stage.backfill()
    assert table.state is Backfill.STOPPED
    assert 100 <= table.refused["23514"] < 150


TRIGGER = """
CREATE FUNCTION normalise() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {} END';
CREATE TRIGGER normalised {} UPDATE ON patients FOR EACH ROW {} EXECUTE FUNCTION normalise()
"""
CHANGING = [
    ("NEW.diagnosis := lower(NEW.diagnosis); RETURN NEW;", "BEFORE", ""),
    ("RETURN NULL;", "BEFORE", ""),
    (
        "UPDATE patients SET diagnosis = lower(diagnosis) WHERE id = NEW.id; RETURN NULL;",
        "AFTER",
        "WHEN (pg_trigger_depth() = 0)",
    ),
]


@pytest.mark.parametrize("trigger", CHANGING, ids=["changes", "suppresses", "changes afterwards"])
def test_trigger_that_changes_new_values_is_rejected_and_all_values_remain(stage: Stage, trigger):
    before = stage.patients()
    stage.stand.stored(TRIGGER.format(*trigger))
    with pytest.raises(BackfillRefused, match=r"a trigger stored another value of public\.patients\.diagnosis"):
        stage.backfill()
    assert stage.stand.stored(PLAIN) == before


DEFERRED = """
CREATE FUNCTION normalise() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN UPDATE patients SET diagnosis = {} WHERE id = NEW.id AND diagnosis <> {}; RETURN NULL; END';
CREATE CONSTRAINT TRIGGER normalised AFTER UPDATE ON patients DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.id = 9) EXECUTE FUNCTION normalise();
"""


@pytest.mark.parametrize("undo", [False, True])
def test_trigger_that_changes_new_values_at_the_commit_is_rejected_and_all_values_remain(stage: Stage, undo):
    before = stage.patients()
    if undo:
        stage.backfill()
        before = stage.stand.stored(PLAIN)
    stage.stand.stored(DEFERRED.format(*["upper(diagnosis)" if undo else "lower(diagnosis)"] * 2))
    with pytest.raises(BackfillRefused, match=r"a trigger stored another value of public\.patients\.diagnosis"):
        stage.backfill(undo=undo)
    assert stage.stand.stored(PLAIN) == before


def test_row_that_a_deferred_constraint_rejects_does_not_block_other_rows(stage: Stage):
    stage.patients()
    stage.stand.stored(
        "CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE check_violation; END';"
        "CREATE CONSTRAINT TRIGGER rejected AFTER UPDATE ON patients DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW WHEN (NEW.id = 9) EXECUTE FUNCTION reject()"
    )
    [table] = stage.backfill()
    assert table.refused == {"23514": 1}
    assert table.left == 3


def test_trigger_that_changes_decrypted_values_is_rejected_and_all_values_remain(stage: Stage):
    stage.patients()
    stage.backfill()
    before = stage.stand.stored(PLAIN)
    stage.stand.stored(TRIGGER.format("NEW.diagnosis := upper(NEW.diagnosis); RETURN NEW;", "BEFORE", ""))
    with pytest.raises(BackfillRefused, match="a trigger stored another value"):
        stage.backfill(undo=True)
    assert stage.stand.stored(PLAIN) == before


def test_trigger_that_changes_encrypted_values_is_rejected_while_another_column_is_encrypted(stage: Stage):
    stage.stand.stored(PATIENTS)
    stage.stand.protect(FIELDS[0])
    stage.backfill()
    stage.stand.protect(*FIELDS)
    before = stage.stand.stored(PLAIN)
    stage.stand.stored(TRIGGER.format("NEW.diagnosis := lower(NEW.diagnosis); RETURN NEW;", "BEFORE", ""))
    with pytest.raises(BackfillRefused, match=r"a trigger stored another value of public\.patients\.diagnosis"):
        stage.backfill()
    assert stage.stand.stored(PLAIN) == before


def test_one_row_whose_trigger_changes_it_ends_the_backfill_when_rows_are_stored_one_by_one(stage: Stage):
    stage.patients()
    stage.stand.stored("ALTER TABLE patients ADD CHECK (id <> 7 OR diagnosis NOT LIKE 'okcm%')")
    stage.stand.stored(
        TRIGGER.format("NEW.diagnosis := lower(NEW.diagnosis); RETURN NEW;", "BEFORE", "WHEN (NEW.id = 9)")
    )
    before = stage.stand.stored(PLAIN)
    with pytest.raises(BackfillRefused, match="a trigger stored another value"):
        stage.backfill()
    assert stage.stand.stored(PLAIN) == before


REFUSED = [
    ("ALTER TABLE patients ALTER COLUMN insurance TYPE varchar(20)", {}, "varchar without a length"),
    ("ALTER TABLE patients DROP CONSTRAINT patients_pkey", {}, "needs a primary key"),
    ("ALTER TABLE patients RENAME TO others", {}, "public.patients is listed as protected but not in this database"),
    ("SELECT 1", {"table": "public.others"}, "no column of public.others is protected"),
]


@pytest.mark.parametrize(("statement", "options", "message"), REFUSED)
def test_unsupported_table_is_rejected_before_a_row_is_changed(stage: Stage, statement, options, message):
    before = stage.patients()
    stage.stand.stored(statement)
    with pytest.raises(BackfillRefused, match=message):
        stage.backfill(**options)
    stage.stand.stored("ALTER TABLE IF EXISTS others RENAME TO patients")
    assert stage.stand.stored(PLAIN) == before
    assert stage.stand.stored("SELECT to_regnamespace('openkcm')") == [(None,)]


def test_database_user_without_access_to_all_rows_is_rejected(stage: Stage):
    stage.patients()
    stage.stand.stored("DROP ROLE IF EXISTS clerk; CREATE ROLE clerk; GRANT SELECT ON patients TO clerk")
    try:
        clerk = f"{stage.stand.conninfo} options='-c role=clerk'"
        with pytest.raises(BackfillRefused, match="lacks the right to read and update"):
            stage.backfill(conninfo=clerk)
        stage.stand.stored("GRANT UPDATE ON patients TO clerk; ALTER TABLE patients ENABLE ROW LEVEL SECURITY")
        stage.stand.stored("CREATE POLICY few ON patients USING (id < 10)")
        with pytest.raises(BackfillRefused, match="42501"):
            stage.backfill(conninfo=clerk)
    finally:
        stage.stand.stored("DROP OWNED BY clerk; DROP ROLE clerk")
