"""Statements that change the structure: what they protect is encrypted from the next statement of the process on."""

import time

import psycopg
import pytest
from psycopg import sql

from openkcm.field_encryption.postgresql.errors import StatementRefused
from openkcm.field_encryption.postgresql.structure import changes_structure
from tests.client.field_encryption.stand import Stand

TABLES = """
CREATE TABLE people (id int PRIMARY KEY, ssn text);
CREATE TABLE plain (id int PRIMARY KEY, ssn text);
COMMENT ON COLUMN people.ssn IS 'openkcm: encrypt';
"""
PROTECT, UNPROTECT = "COMMENT ON COLUMN plain.ssn IS 'openkcm: encrypt'", "COMMENT ON COLUMN people.ssn IS NULL"


@pytest.fixture
def tables(stand):
    stand.stored(TABLES)
    return stand


@pytest.fixture
def conn(tables):
    with tables.connect(autocommit=True) as connection:
        connection.execute("SELECT 1")
        yield connection


@pytest.fixture
def other(tables):
    with tables.connect(autocommit=True) as connection:
        connection.execute("SELECT ssn FROM people")
        yield connection


def insert(connection, table, number, value="secret"):
    connection.execute(f"INSERT INTO {table} VALUES ({number}, '{value}')")


def plain_rows(stand, table):
    """Return the keys of the rows whose value is stored plain."""
    return [int(number) for number, ssn in stand.stored(f"SELECT * FROM {table} ORDER BY id") if ssn[:5] != "okcm:"]


def test_change_that_is_rolled_back_has_no_effect(stand, conn, other):
    for number, undo in enumerate(("transaction", "savepoint", "statements", "rollback"), 1):
        if undo == "transaction":
            with conn.transaction(force_rollback=True):
                conn.execute(UNPROTECT)
                insert(conn, "people", 100)
        elif undo == "statements":
            for query in ("BEGIN", UNPROTECT, "SELECT ssn FROM people", "ROLLBACK", "BEGIN"):
                conn.execute(query)
        elif undo == "rollback":
            conn.autocommit = False
            conn.execute(UNPROTECT)
            conn.execute("SELECT ssn FROM people")
            conn.rollback()
        else:
            with conn.transaction():
                with conn.transaction(force_rollback=True):
                    conn.execute(UNPROTECT)
                    insert(conn, "people", 100)
                insert(conn, "people", 40)
        insert(conn, "people", number)
        insert(other, "people", 10 + number)
        conn.commit() if undo != "statements" else conn.execute("COMMIT")
    assert len(stand.stored("SELECT * FROM people")) == 9
    assert plain_rows(stand, "people") == []


def test_open_transaction_sees_its_own_changes_and_other_connections_do_not(stand, conn, other):
    with conn.transaction():
        conn.execute(PROTECT)
        conn.execute(UNPROTECT)
        insert(other, "people", 1)
        insert(other, "plain", 1)
        stand.now += 31
        insert(other, "people", 2)
        insert(other, "plain", 2)
        insert(conn, "people", 3)
        insert(conn, "plain", 3)
    insert(other, "people", 4)
    insert(other, "plain", 4)
    insert(conn, "people", 5)
    insert(conn, "plain", 5)
    assert plain_rows(stand, "people") == [3, 4, 5]
    assert plain_rows(stand, "plain") == [1, 2]


def test_committed_change_applies_to_the_next_statement_of_every_connection(stand, conn, other):
    for number, protect in enumerate((True, False, True, False)):
        change = PROTECT if protect else "COMMENT ON COLUMN plain.ssn IS NULL"
        if number < 2:
            conn.execute(change)
        else:
            with conn.transaction():
                conn.execute(change)
            with conn.transaction():
                insert(conn, "plain", 20 + number)
        insert(other, "plain", number)
    assert plain_rows(stand, "plain") == [1, 3, 23]


FORMS = [
    PROTECT,
    PROTECT.encode(),
    sql.SQL(PROTECT),
    sql.SQL("COMMENT ON COLUMN {}.ssn IS {}").format(sql.Identifier("plain"), sql.Literal("openkcm: encrypt")),
    "-- a migration\n" + PROTECT,
    "/* a /* nested */ migration */" + PROTECT,
    "SELECT 1; /* then */ -- this\n" + PROTECT,
    "BEGIN; " + PROTECT + "; COMMIT",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE draft RENAME TO plain' || 2; END $$",
    "ALTER TABLE draft RENAME TO plain2",
    "/* listed */ CREATE TABLE plain2 (id int PRIMARY KEY, ssn text)",
    "ALTER TABLE s.plain2 SET SCHEMA public",
    "ALTER SCHEMA s RENAME TO t; ALTER TABLE t.plain2 SET SCHEMA public",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("send", ["execute", "executemany", "pipeline", "client"])
def test_every_form_of_a_change_is_noticed(stand, conn, other, form, send):
    stand.protect({"place": "public.plain2", "field": "ssn"})
    stand.stored("CREATE TABLE draft (id int PRIMARY KEY, ssn text); CREATE SCHEMA s")
    stand.stored("CREATE TABLE s.plain2 (id int PRIMARY KEY, ssn text)")
    table = "public.plain2" if "draft" in str(form) or "plain2" in str(form) else "plain"
    for one in (conn, other):
        one.execute("SELECT ssn FROM plain")
    if send == "execute":
        conn.execute(form)
    elif send == "client":
        psycopg.ClientCursor(conn).execute(form)
    elif "1; " in str(form) or "BEGIN; " in str(form) or "t; " in str(form):
        return  # the extended protocol accepts one statement
    elif send == "executemany":
        conn.cursor().executemany(form, [()])
    else:
        with conn.pipeline():
            conn.execute(form)
            insert(conn, table, 3)
    insert(other, table, 1)
    insert(conn, table, 2)
    assert plain_rows(stand, table) == []


def test_new_view_on_a_protected_column_is_rejected(conn, other):
    conn.execute("/* a view */ CREATE VIEW shown AS SELECT * FROM people")
    for connection in (other, conn):
        with pytest.raises(StatementRefused, match="reads protected columns"):
            connection.execute("INSERT INTO shown VALUES (1, 'x')")
    with conn.transaction():
        conn.execute("CREATE RULE copied AS ON INSERT TO plain DO ALSO UPDATE people SET ssn = NEW.ssn")
        with pytest.raises(StatementRefused), conn.transaction():
            insert(conn, "plain", 1)


def test_table_that_joins_a_protected_one_is_rejected(stand, conn, other):
    conn.execute(sql.SQL("ALTER TABLE plain INHERIT people"))
    for connection in (other, conn):
        with pytest.raises(StatementRefused, match="is a partition of"):
            insert(connection, "plain", 1)
    assert stand.stored("SELECT * FROM plain") == []


SCRIPTS = [
    "CREATE TABLE t (id int PRIMARY KEY, c text); COMMENT ON COLUMN t.c IS 'openkcm: encrypt'; {write}",
    "CREATE TABLE listed (id int PRIMARY KEY, c text); /* x */ {write}",
    "CREATE TABLE t (LIKE people INCLUDING ALL); BEGIN; {write}; COMMIT",
    "ALTER TABLE plain RENAME TO t; /* people */ {write}",
    "CREATE VIEW t AS SELECT * FROM people; {write}",
]
SCRIPT_WRITES = [
    "INSERT INTO t VALUES (1, 'x')",
    "INSERT INTO listed VALUES (1, 'x')",
    "WITH x AS (UPDATE t SET c = 'x' RETURNING 1) SELECT * FROM x",
    "PREPARE p AS INSERT INTO t VALUES (1, 'x')",
    "MERGE INTO t USING plain ON true WHEN NOT MATCHED THEN INSERT VALUES (1, 'x')",
]


def test_script_that_creates_and_writes_is_rejected(stand, conn):
    stand.protect({"place": "public.listed", "field": "c"})
    for script in SCRIPTS:
        for write in SCRIPT_WRITES:
            with pytest.raises(StatementRefused, match=r"one by one|several statements"):
                conn.execute(script.format(write=write))
    for script in SCRIPTS:
        conn.execute(script.format(write="SELECT pg_catalog.set_config('search_path', 'public', false)"))
        conn.execute("DROP VIEW IF EXISTS t") if "VIEW" in script else conn.execute("DROP TABLE IF EXISTS t, listed")
        if "RENAME" in script:
            conn.execute("CREATE TABLE plain (id int PRIMARY KEY, ssn text)")


def test_script_without_a_protected_name_is_supported(conn):
    conn.execute("CREATE TABLE t (id int, c text); COMMENT ON COLUMN t.c IS 'text'; INSERT INTO t VALUES (1, 'x')")
    assert conn.execute("SELECT c FROM t").fetchall() == [("x",)]


def test_script_that_renames_a_schema_and_stores_values_is_supported(conn):
    conn.execute("CREATE SCHEMA s; CREATE TABLE s.t (c text); ALTER SCHEMA s RENAME TO z; INSERT INTO z.t VALUES ('x')")
    assert conn.execute("SELECT c FROM z.t").fetchall() == [("x",)]


def test_text_that_repeats_keywords_is_analysed(conn):
    """A value must not make the analysis take longer than in proportion to its length."""
    value = 20_000 * "alter " + 20_000 * "schema "
    assert conn.execute(f"SELECT '{value}'").fetchall() == [(value,)]


def test_text_with_many_spaces_after_a_setting_is_analysed(conn):
    spaces = 400_000 * " "
    conn.execute(f"SET application_name = '{spaces}'; SELECT 1")
    assert conn.execute("SHOW application_name").fetchone() is not None


LOSSES = [
    "ALTER TABLE people RENAME TO persons",
    "alter table if exists public.people rename to persons",
    "ALTER INDEX people RENAME TO persons",
    "ALTER TABLE ONLY people RENAME ssn TO number",
    "ALTER TABLE people SET SCHEMA s",
    "ALTER TABLE people ADD note text, ALTER ssn TYPE text USING left(ssn, 20)",
    "ALTER TABLE people ALTER COLUMN id SET DATA TYPE text",
    "ALTER TABLE people ALTER COLUMN id TYPE int USING id + 1",
    "BEGIN; ALTER TABLE people RENAME TO persons; COMMIT",
    "ALTER SCHEMA public RENAME TO clinic",
    'alter /* all */ schema "public"\nrename to people',
    "ALTER TABLE s.other ADD x int; ALTER SCHEMA public RENAME TO clinic",
    "ALTER TABLE people ADD note text; ALTER SCHEMA public RENAME TO clinic",
]
KEPT = [
    "ALTER TABLE people RENAME plain TO other",
    "ALTER TABLE people ALTER plain TYPE int USING 1",
    "ALTER TABLE people ALTER id TYPE bigint",
    "ALTER TABLE people RENAME CONSTRAINT people_pkey TO key",
    "ALTER INDEX people_pkey RENAME TO people_key",
    "ALTER TABLE s.people RENAME TO persons",
    "ALTER VIEW shown RENAME TO shown_people",
    "ALTER TABLE people ALTER ssn SET NOT NULL",
    "ALTER SCHEMA s RENAME TO people",
    "ALTER TABLE people DROP ssn",
]


@pytest.mark.parametrize("change", LOSSES)
def test_change_that_would_make_values_unreadable_is_rejected(stand, conn, other, change):
    insert(conn, "people", 1)
    with pytest.raises(StatementRefused, match="could not be decrypted after this change") as refused:
        conn.execute(change)
    assert "openkcm backfill --undo" in str(refused.value)
    insert(conn, "people", 2)
    assert other.execute("SELECT ssn FROM people").fetchall() == [("secret",), ("secret",)]
    assert plain_rows(stand, "people") == []


@pytest.mark.parametrize("change", KEPT)
def test_change_that_keeps_the_values_is_supported(conn, change):
    conn.execute("ALTER TABLE people ADD plain text; CREATE SCHEMA s; CREATE TABLE s.people (id int); "
                 "CREATE VIEW shown AS SELECT 1 FROM people")  # fmt: skip
    conn.execute("INSERT INTO public.people VALUES (1, 'secret', 'x')")
    conn.execute(change)
    if "DROP" not in change:
        assert conn.execute("SELECT id, ssn FROM public.people").fetchall() == [(1, "secret")]


def test_old_snapshot_is_not_kept_for_later_statements(conninfo):
    stand = Stand(conninfo=conninfo)
    stand.stored(TABLES)
    with (
        stand.hooked(clock=time.monotonic, catalogue_seconds=0.2),
        stand.connect(autocommit=True) as conn,
        stand.connect(autocommit=True) as other,
    ):
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT ssn FROM people")
        conn.execute(PROTECT)
        other.execute("SELECT ssn FROM people")
        insert(conn, "plain", 1)
        time.sleep(0.3)
        other.execute("SELECT ssn FROM people")
        insert(conn, "plain", 2)
        other.execute("COMMIT")
        insert(other, "plain", 3)
    assert plain_rows(stand, "plain") == []


def test_structure_that_was_read_during_a_change_is_not_kept(conninfo):
    stand = Stand(conninfo=conninfo)
    stand.stored(TABLES)
    with stand.hooked() as hook, stand.connect(autocommit=True) as first, stand.connect(autocommit=True) as second:
        session = hook.session(first)
        [[answer]] = stand.stored(hook.question(session).decode())
        second.execute(PROTECT)
        hook.catalogue_received(session, answer)
        insert(first, "plain", 1)
        insert(second, "plain", 2)
    assert plain_rows(stand, "plain") == []


def test_closed_connection_ends_its_change(stand, other):
    with stand.connect() as third:
        third.execute(PROTECT)
        third.execute("SELECT ssn FROM people")
    del third
    insert(other, "plain", 1)
    assert plain_rows(stand, "plain") == []


async def test_async_connection_notices_changes(stand, conn):
    async with await stand.connect_async() as changing:
        await changing.execute("/* x */" + PROTECT)
        insert(conn, "plain", 1)
        await changing.commit()
        insert(conn, "plain", 2)
    assert plain_rows(stand, "plain") == [1]


def test_streamed_change_is_rejected(conn):
    with pytest.raises(StatementRefused, match="use execute"):
        list(conn.cursor().stream(PROTECT))


def test_unchanged_structure_is_read_once(conninfo, monkeypatch):
    """A statement that only resembles a change, and one after a change that ended, read nothing."""
    stand, read = Stand(conninfo=conninfo), []
    stand.stored(TABLES + "CREATE TABLE t (id int PRIMARY KEY, comment text)")
    with stand.hooked() as hook, stand.connect(autocommit=True) as first, stand.connect() as second:
        original = hook.question
        monkeypatch.setattr(hook, "question", lambda session: read.append(session) or original(session))
        for connection in (first, second):
            connection.execute("INSERT INTO t (id, comment) VALUES (1, 'do it; create') ON CONFLICT DO NOTHING")
            connection.execute("SELECT comment, 'drop' AS alter FROM t")
            connection.execute("EXPLAIN SELECT comment FROM t")
            connection.commit()
        assert len(read) == 1
        first.execute("DROP TABLE plain")
        for connection in (first, second, first):
            connection.execute("SELECT ssn FROM people")
            connection.commit()
        assert len(read) == 2


CHANGES = [
    "CREATE TABLE t (a int)", "\n/* x */ -- y\n alter table t add b int", "/*/**/*/drop table t", "SELECT 1 INTO t",
    "SELECT 1 INTO t UNION SELECT 2", "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", "SELECT setval('s', 1)",
    "COMMIT PREPARED 'x'", "TRUNCATE t", "CALL p()", "DO ''", "CREATE no statement", "COMMENT ON TABLE t IS 'x'",
    "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y", "CREATE TEMP TABLE x (LIKE t INCLUDING ALL)",
    "CREATE TEMPORARY TABLE x () INHERITS (t)",
]  # fmt: skip
NO_CHANGES = [
    "SELECT 'create'", "INSERT INTO comment VALUES (1)", "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
    "UPDATE t SET comment = $1", "COMMIT", "PREPARE p AS SELECT comment FROM t", "COPY comment FROM STDIN",
    "SELECT 1 -- create", "CREATE TEMP TABLE x AS SELECT 1", "CREATE TEMP TABLE x (a int) ON COMMIT DROP",
    "CREATE INDEX ON t (left(a, 30))", "WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT comment FROM x",
]  # fmt: skip


@pytest.mark.unit
def test_structure_is_recognised_by_the_parsed_statement():
    assert [text for text in CHANGES if not changes_structure(text.encode())] == []
    assert [text for text in NO_CHANGES if changes_structure(text.encode())] == []
