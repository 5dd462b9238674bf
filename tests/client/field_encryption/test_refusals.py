"""Statements that would store plaintext, or compute with ciphertext, are rejected before they are sent."""

import psycopg
import pytest

from openkcm.contract.protected_fields import Mode, Store
from openkcm.field_encryption.key_cache import KeyErrorScope, KeyUnwrapError
from openkcm.field_encryption.postgresql.catalog import question, read_answer
from openkcm.field_encryption.postgresql.errors import (
    KeysUnavailable,
    PlainValueFound,
    ProtectionUnknown,
    ProtectionUnusable,
    StatementRefused,
    ValueRefused,
)
from openkcm.field_encryption.protected_fields import ProtectionUnreadable
from tests.client.field_encryption.stand import MemoryKeys

TABLES = """
CREATE TABLE customers (id serial PRIMARY KEY, name text, ssn text, email text, photo bytea);
CREATE TABLE orders (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), customer int, note text);
CREATE TABLE plain (id int PRIMARY KEY, ssn text);
CREATE TABLE invited (customer int, email text);
CREATE VIEW people AS SELECT id, ssn FROM customers;
CREATE VIEW named AS SELECT id, name FROM customers;
CREATE VIEW crowd AS SELECT * FROM people;
COMMENT ON COLUMN customers.ssn IS 'openkcm: encrypt';
COMMENT ON COLUMN customers.photo IS 'openkcm: encrypt';
COMMENT ON COLUMN customers.email IS 'openkcm: encrypt deterministic';
COMMENT ON COLUMN orders.note IS 'openkcm: encrypt';
"""


@pytest.fixture
def conn(stand):
    stand.stored(TABLES)
    with stand.connect(autocommit=True) as connection:
        insert = "INSERT INTO customers (id, name, ssn, email) VALUES "
        connection.execute(insert + "(101, 'Ann', 's1', 'ann@x'), (102, 'Bob', 's2', 'bob@x')")
        connection.execute("INSERT INTO orders (customer, note) VALUES (101, 'first')")
        connection.execute("INSERT INTO invited VALUES (101, 'ann@x'), (102, 'other@x')")
        yield connection


WRITES = [
    "INSERT INTO customers (name, ssn) SELECT name, 'x' FROM customers",
    "INSERT INTO customers (name, ssn) VALUES ('a', upper('x'))",
    "INSERT INTO customers (name, ssn) VALUES ('a', 'x'::varchar(3))",
    "INSERT INTO customers (id, ssn) VALUES (1 + 1, 'x')",
    "INSERT INTO customers (name, ssn) SELECT p0, p1 FROM (VALUES ('a', 'x')) AS v (p0, p1) WHERE p1 = 'x'",
    "INSERT INTO plain SELECT id, ssn FROM customers",
    "INSERT INTO plain (id, ssn) VALUES (1, (SELECT ssn FROM customers LIMIT 1))",
    "INSERT INTO customers (name, ssn) VALUES ('a', 'x') ON CONFLICT (name) DO UPDATE SET ssn = excluded.ssn",
    "INSERT INTO customers (id, ssn) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET ssn = customers.name",
    "INSERT INTO customers (id, ssn) VALUES (1, 'x'), (2, 'y') ON CONFLICT (id) DO UPDATE SET ssn = 'z'",
    "INSERT INTO customers (id, ssn) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET id = 5",
    "UPDATE customers SET ssn = 'x'",
    "UPDATE customers SET ssn = 'x' WHERE name = 'Ann'",
    "UPDATE customers SET ssn = 'x' WHERE id = 101 OR id = 102",
    "UPDATE customers SET ssn = name WHERE id = 101",
    "UPDATE customers SET (ssn, name) = ('x', 'y') WHERE id = 101",
    "UPDATE customers SET id = 5 WHERE id = 101",
    "UPDATE plain SET ssn = c.ssn FROM customers c WHERE c.id = plain.id",
    "MERGE INTO customers c USING plain p ON p.id = c.id WHEN MATCHED THEN UPDATE SET ssn = p.ssn",
    "COPY customers FROM STDIN",
    "COPY customers (ssn) TO STDOUT",
    "COPY (SELECT ssn FROM customers) TO STDOUT",
    "CREATE TABLE copied AS SELECT * FROM customers",
    "SELECT * INTO copied FROM customers",
    "PREPARE p AS INSERT INTO customers (ssn) VALUES ($1)",
    "DECLARE c CURSOR FOR SELECT ssn FROM customers",
    "EXPLAIN ANALYZE INSERT INTO customers (ssn) VALUES ('x')",
    "SELECT 1; INSERT INTO customers (ssn) VALUES ('x')",
    "WITH x AS (INSERT INTO customers (ssn) SELECT 'x' RETURNING 1) SELECT * FROM x",
    "INSERT INTO U&\"\\0063ustomers\" (ssn) SELECT 'x'",
    "DO $$ BEGIN INSERT INTO customers (ssn) VALUES ('x'); END $$",
    "DO LANGUAGE plpgsql 'BEGIN UPDATE public.customers SET ssn = ''x''; END'",
    "/* block */ do $x$ begin execute 'UPDATE ' || quote_ident('customers') || ' SET ssn = ''x'''; end $x$",
    "DO $$ BEGIN INSERT INTO U&\"\\0063ustomers\" (ssn) VALUES ('x'); END $$",
    "SELECT 1; DO $$ BEGIN UPDATE people SET ssn = 'x'; END $$",
]
READS = [
    "SELECT id FROM customers WHERE ssn = 's1'",
    "SELECT id FROM customers WHERE ssn LIKE 's%'",
    "SELECT id FROM customers WHERE email LIKE 'ann%'",
    "SELECT id FROM customers WHERE email > 'a'",
    "SELECT id FROM customers WHERE email = name",
    "SELECT upper(ssn) FROM customers",
    "SELECT ssn || 'x' FROM customers",
    "SELECT name FROM customers ORDER BY ssn",
    "SELECT ssn AS s FROM customers ORDER BY s",
    "SELECT id, ssn FROM customers ORDER BY 2",
    "SELECT count(*) FROM customers GROUP BY ssn",
    "SELECT count(DISTINCT ssn) FROM customers",
    "SELECT max(ssn) FROM customers",
    "SELECT DISTINCT ssn FROM customers",
    "SELECT ssn FROM customers UNION SELECT 'x'",
    "SELECT (SELECT ssn FROM customers WHERE id = 101)",
    "SELECT id FROM plain WHERE ssn IN (SELECT ssn FROM customers)",
    "SELECT c FROM customers c",
    "SELECT row_to_json(c) FROM customers c",
    "SELECT to_jsonb(customers.*) FROM customers",
    "SELECT c.row_to_json FROM customers c",
    "SELECT p.id FROM customers c JOIN plain p USING (ssn)",
    "SELECT p.id FROM customers c NATURAL JOIN plain p",
    "SELECT p.id FROM customers c JOIN plain p ON p.ssn = c.ssn",
    "SELECT * FROM people",
    "SELECT * FROM crowd",
    "SELECT x.s FROM (SELECT ssn FROM customers) x (s)",
    "SELECT coalesce(ssn, '') FROM customers",
    "SELECT ssn::varchar FROM customers",
    "DELETE FROM customers WHERE ssn = 's1'",
    "DELETE FROM customers RETURNING old.ssn",
    "TABLE customers",
    "SELECT lastval() FROM customers",
]


def is_rejected(conn, query):
    try:
        if query.startswith("COPY"):
            with conn.cursor().copy(query):
                return False
        conn.execute(query)
    except StatementRefused as error:
        return "(statement_refused)" in str(error)
    return False


def test_unsupported_statement_is_rejected_and_nothing_is_stored(stand, conn):
    conn.execute("INSERT INTO customers (name, ssn) VALUES ('c', 's3')")
    before = stand.stored("SELECT * FROM customers ORDER BY id")
    assert [query for query in (*WRITES, *READS) if not is_rejected(conn, query)] == []
    assert stand.stored("SELECT * FROM customers ORDER BY id") == before


def test_anonymous_block_without_a_protected_name_is_supported(conn):
    block = "DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad'); EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    for query in (block, block, f"COMMENT ON TABLE customers IS 'x'; {block}"):
        conn.execute(query)
    assert conn.execute("SELECT 'sad'::mood").fetchall() == [("sad",)]


def test_rejection_is_an_error_of_the_driver(conn):
    with pytest.raises(psycopg.NotSupportedError):
        conn.execute("SELECT upper(ssn) FROM customers")


READABLE = [
    ("SELECT ssn, c.* FROM customers c WHERE id = 101", [("s1", 101, "Ann", "s1", "ann@x", None)]),
    ("SELECT a.ssn, b.ssn FROM customers a, customers b WHERE a.id < b.id", [("s1", "s2")]),
    ("SELECT * FROM (SELECT ssn, id FROM customers) x WHERE id = 102", [("s2", 102)]),
    ("WITH x AS (SELECT id, ssn FROM customers) SELECT y.ssn FROM x AS y ORDER BY y.id DESC", [("s2",), ("s1",)]),
    ("SELECT x.*, o.note FROM (SELECT id, ssn FROM customers) x JOIN orders o ON o.customer = x.id",
     [(101, "s1", "first")]),
    ("SELECT DISTINCT id, ssn FROM customers ORDER BY id", [(101, "s1"), (102, "s2")]),
    ("SELECT DISTINCT ON (name) ssn FROM customers ORDER BY name DESC", [("s2",), ("s1",)]),
    ("SELECT id, ssn, count(*) FROM customers GROUP BY id ORDER BY 1", [(101, "s1", 1), (102, "s2", 1)]),
    ("SELECT count(ssn), count(*) FROM customers", [(2, 2)]),
    ("SELECT name FROM customers WHERE ssn IS NOT NULL AND photo IS NULL ORDER BY name", [("Ann",), ("Bob",)]),
    ("SELECT name FROM customers c WHERE EXISTS (SELECT * FROM customers d WHERE d.id = c.id + 1)", [("Ann",)]),
    ("SELECT c.ssn, o.note FROM customers c LEFT JOIN orders o ON o.customer = c.id ORDER BY c.id",
     [("s1", "first"), ("s2", None)]),
    ("SELECT name FROM named ORDER BY id", [("Ann",), ("Bob",)]),
    ("SELECT ssn /* from */ FROM customers -- from\nWHERE id IN (101)", [("s1",)]),
    ("SELECT extract(year FROM date '2026-01-01')::int, ssn FROM public.customers WHERE id = 101", [(2026, "s1")]),
    ("SELECT id IS DISTINCT FROM 1, ssn FROM customers WHERE id = 101", [(True, "s1")]),
    ("UPDATE customers SET name = 'x' WHERE id = 101 RETURNING ssn, name", [("s1", "x")]),
    ("DELETE FROM customers WHERE id = 102 RETURNING *", [(102, "Bob", "s2", "bob@x", None)]),
    ("WITH n AS (INSERT INTO customers (name, ssn) VALUES ('n', 'new') RETURNING id, ssn) SELECT ssn FROM n",
     [("new",)]),
    ("SELECT name FROM customers WHERE email = 'bob@x'", [("Bob",)]),
    ("SELECT name FROM customers WHERE 'bob@x' = email", [("Bob",)]),
    ("SELECT name FROM customers WHERE email <> 'bob@x'", [("Ann",)]),
    ("SELECT name FROM customers WHERE email IN ('bob@x', 'cid@x')", [("Bob",)]),
    ("SELECT name FROM customers WHERE email NOT IN ('bob@x', 'cid@x')", [("Ann",)]),
    ("SELECT name FROM customers WHERE email = ANY(ARRAY['bob@x', 'ann@x']) ORDER BY 1", [("Ann",), ("Bob",)]),
    ("SELECT name, email FROM customers WHERE email IS NOT DISTINCT FROM 'bob@x'", [("Bob", "bob@x")]),
]  # fmt: skip


def test_supported_query_returns_the_same_rows_as_without_encryption(conn):
    for query, rows in READABLE:
        with conn.transaction(force_rollback=True):
            assert (query, conn.execute(query).fetchall()) == (query, rows)


def test_equality_by_parameter_and_by_array(conn):
    query = "SELECT name FROM customers WHERE email "
    for _ in range(7):
        assert conn.execute(query + "= %s", ("ann@x",)).fetchall() == [("Ann",)]
    assert conn.execute(query + "= %s::text", ("ann@x",)).fetchall() == [("Ann",)]
    assert conn.execute(query + "= ANY(%s)", (["ann@x", None, "zed@x"],)).fetchall() == [("Ann",)]
    assert conn.execute(query + "<> ALL(%s)", (["ann@x", "zed@x"],)).fetchall() == [("Bob",)]
    assert conn.execute(query + "= %s", (None,)).fetchall() == []


# PostgreSQL looks for a column in the inner query first. `invited` is not protected, so its columns are not known.
UNQUALIFIED = [
    ("SELECT name FROM customers WHERE id IN (SELECT customer FROM invited WHERE {}email = 'ann@x')", [("Ann",)]),
    ("SELECT name FROM customers WHERE id NOT IN (SELECT customer FROM invited WHERE {}email = 'ann@x')", [("Bob",)]),
    (
        (
            "SELECT name FROM customers WHERE NOT EXISTS "
            "(SELECT 1 FROM invited WHERE customer = customers.id AND {}email = 'ann@x')"
        ),
        [("Bob",)],
    ),
    ("SELECT (SELECT count(*) FROM invited WHERE {}email = 'ann@x') FROM customers WHERE id = 101", [(1,)]),
    ("SELECT (SELECT count({}email) FROM invited) FROM customers WHERE id = 101", [(2,)]),
    (
        "SELECT name FROM customers WHERE id IN (SELECT customer FROM invited WHERE {}email IS NOT NULL) ORDER BY id",
        [("Ann",), ("Bob",)],
    ),
    (
        "SELECT name FROM customers WHERE id IN (SELECT customer FROM invited ORDER BY {}email = 'ann@x' DESC LIMIT 1)",
        [("Ann",)],
    ),
    (
        (
            "SELECT name FROM customers WHERE id IN (SELECT customer FROM (SELECT * FROM invited) AS invited"
            " WHERE {}email = 'ann@x')"
        ),
        [("Ann",)],
    ),
    (
        (
            "SELECT name FROM customers c JOIN LATERAL (SELECT customer FROM invited WHERE {}email = 'ann@x') i"
            " ON i.customer = c.id"
        ),
        [("Ann",)],
    ),
    (
        (
            "SELECT name FROM customers WHERE id IN (WITH invited AS (SELECT * FROM invited)"
            " SELECT customer FROM invited WHERE {}email = 'ann@x')"
        ),
        [("Ann",)],
    ),
    (
        "UPDATE customers SET name = (SELECT 'x' FROM invited WHERE {}email = 'ann@x') WHERE id = 101 RETURNING name",
        [("x",)],
    ),
    (
        "DELETE FROM customers WHERE id NOT IN (SELECT customer FROM invited WHERE {}email = 'ann@x') RETURNING name",
        [("Bob",)],
    ),
]


def test_column_of_an_inner_query_is_not_taken_for_the_protected_column_outside(stand, conn):
    before = stand.stored("SELECT * FROM customers ORDER BY id")
    assert [query for query, _ in UNQUALIFIED if not is_rejected(conn, query.format(""))] == []
    assert stand.stored("SELECT * FROM customers ORDER BY id") == before
    for query, rows in UNQUALIFIED:
        with conn.transaction(force_rollback=True):
            assert (query, conn.execute(query.format("invited.")).fetchall()) == (query, rows)


def test_column_is_searched_where_postgresql_searches_it(conn):
    joined = "SELECT name, i.email FROM customers c JOIN (SELECT customer, email FROM invited) i ON i.customer = c.id"
    assert conn.execute(joined + " ORDER BY c.id").fetchall() == [("Ann", "ann@x"), ("Bob", "other@x")]
    for inner in (
        "(SELECT customer FROM invited WHERE email = 'ann@x') i",
        "(invited i JOIN (SELECT 1 AS one) p ON email = 'ann@x')",
    ):
        query = f"SELECT name FROM customers c, {inner} WHERE i.customer = c.id"
        assert (inner, conn.execute(query).fetchall()) == (inner, [("Ann",)])
    assert conn.execute("SELECT name FROM customers WHERE id = (SELECT id WHERE email = 'ann@x')").fetchall() == [
        ("Ann",)
    ]


MOVES = [
    "UPDATE customers SET ssn = (SELECT ssn FROM customers WHERE id = 102) WHERE id = 101",
    "UPDATE customers SET ssn = 'okcm:c1:' || substr(email, 31) WHERE id = 101",
    "UPDATE customers SET ssn = (SELECT note FROM orders) WHERE id = 101",
    "UPDATE customers SET id = 103 WHERE id = 101",
    "UPDATE customers SET ssn = left(ssn, 80) || 'AAAA' WHERE id = 101",
    "UPDATE customers SET ssn = ssn || '=' WHERE id = 101",
    "UPDATE customers SET ssn = ssn || '====' WHERE id = 101",
    "UPDATE customers SET ssn = ssn || chr(10) WHERE id = 101",
    "UPDATE customers SET ssn = rtrim(ssn, '=') WHERE id = 101",
    "UPDATE customers SET ssn = left(ssn, -2) || chr(ascii(left(right(ssn, 2), 1)) + 1) || '=' WHERE id = 101",
    "UPDATE customers SET email = left(email, 29) || chr(ascii(right(left(email, 30), 1)) + 1) || substr(email, 31)",
    "UPDATE customers SET ssn = 'okcm:c1:' WHERE id = 101",
    "UPDATE customers SET email = (SELECT left(b.email, 30) FROM customers b WHERE b.id = 102) || substr(email, 31)",
]


def test_moved_or_altered_value_is_rejected(stand, conn):
    for move in MOVES:
        # The cipher of a valid value is cached afterwards.
        assert len(conn.execute("SELECT ssn, email FROM customers").fetchall()) == 2
        stand.stored("CREATE TABLE kept AS SELECT * FROM customers")
        stand.stored(move)
        with pytest.raises(ValueRefused):
            conn.execute("SELECT ssn, email FROM customers ORDER BY id").fetchall()
        stand.stored("DELETE FROM customers; INSERT INTO customers SELECT * FROM kept; DROP TABLE kept")
    assert len(conn.execute("SELECT ssn, email FROM customers").fetchall()) == 2


def test_value_moved_to_another_column_is_rejected(stand, conn):
    stand.stored("UPDATE customers SET name = ssn; COMMENT ON COLUMN customers.name IS 'openkcm: encrypt'")
    stand.now += 31
    with pytest.raises(ValueRefused):
        conn.execute("SELECT name FROM customers").fetchall()


def test_table_moved_to_another_schema_cannot_be_decrypted(stand, conn):
    stand.stored("CREATE SCHEMA s; ALTER TABLE orders SET SCHEMA s")
    stand.now += 31
    with pytest.raises(ValueRefused):
        conn.execute("SELECT note FROM s.orders").fetchall()


def test_another_service_decrypts_and_stores_nothing(stand, conn):
    stand.keys.__dict__.update(MemoryKeys().__dict__)
    stand.now += 61
    for query in ("SELECT ssn FROM customers", "UPDATE customers SET ssn = 'x' WHERE id = 101"):
        with pytest.raises(KeysUnavailable):
            conn.execute(query).fetchall()


def test_plain_value_is_rejected_unless_it_is_allowed(stand, conn):
    stand.stored("INSERT INTO customers (id, name, ssn, email) VALUES (7, 'Old', 'plain', 'old@x')")
    with pytest.raises(PlainValueFound):
        conn.execute("SELECT ssn FROM customers WHERE id = 7").fetchall()
    allowed = {"place": "public.customers", "plaintext_allowed": True}
    stand.protect(allowed | {"field": "ssn"}, allowed | {"field": "email", "mode": Mode.DETERMINISTIC})
    stand.now += 31
    assert conn.execute("SELECT ssn, email FROM customers WHERE id = 7").fetchall() == [("plain", "old@x")]
    for value in ("old@x", "ann@x"):
        for query in ("email = %s", "email = %s::varchar", f"email = '{value}'"):
            values = (value,) if "%" in query else None
            assert len(conn.execute("SELECT * FROM customers WHERE " + query + " AND id > 0", values).fetchall()) == 1


def test_keys_are_used_for_their_time_and_then_unwrapped_again(stand, conn):
    def read() -> list:
        return conn.execute("SELECT ssn FROM customers WHERE id = 101").fetchall()

    assert read() == [("s1",)]
    stand.keys.up = False
    stand.now += 29
    assert read() == [("s1",)]
    conn.execute("UPDATE customers SET ssn = 's1' WHERE id = 101")
    stand.now += 32
    with pytest.raises(KeysUnavailable, match="not reachable"):
        read()
    with pytest.raises(psycopg.OperationalError):
        conn.execute("UPDATE customers SET ssn = 'x' WHERE id = 101")
    stand.keys.up = True
    stand.now += 2
    assert read() == [("s1",)]


def test_rejection_ends_lent_keys_immediately(stand, conn):
    statements = [
        ("SELECT ssn FROM customers WHERE id = 101", None),
        ("UPDATE customers SET ssn = %s WHERE id = 101", ("s1",)),
        ("SELECT name FROM customers WHERE email = %s", ("ann@x",)),
    ]
    for query, values in statements * 2:
        conn.execute(query, values)
    conn.execute(statements[0][0]).fetchall()
    cursor = conn.execute("SELECT ssn FROM customers ORDER BY id")
    assert cursor.fetchone() == ("s1",)
    stand.keys.refused = KeyUnwrapError("tenant_not_operational", "the tenant is locked", ends=KeyErrorScope.ALL_KEYS)
    assert not any([callback() for callback in stand.keys.callbacks])  # noqa: C419 - each must run
    with pytest.raises(KeysUnavailable):
        cursor.fetchone()
    for query, values in statements:
        with pytest.raises(KeysUnavailable):
            conn.execute(query, values).fetchall()
        conn.rollback()
    stand.keys.refused = None
    stand.now += 2
    assert conn.execute(statements[0][0]).fetchall() == [("s1",)]


BROKEN = [
    ("CREATE TABLE t (id int PRIMARY KEY, c int)", "must be text"),
    ("CREATE TABLE t (id int PRIMARY KEY, c varchar(20))", "must be text"),
    ("CREATE TABLE t (id int, c text)", "needs a primary key"),
    ("CREATE TABLE t (id float PRIMARY KEY, c text)", "must be an integer"),
    ("CREATE TABLE t (id int PRIMARY KEY, c text DEFAULT 'x')", "has a default"),
    ("CREATE TABLE t (c text PRIMARY KEY)", "cannot itself"),
]


def test_unsupported_table_raises_its_reason(stand):
    with stand.connect() as conn:
        for table, reason in BROKEN:
            stand.stored(f"{table}; COMMENT ON COLUMN t.c IS 'openkcm: encrypt'")
            stand.now += 31
            with pytest.raises(ProtectionUnusable, match=reason):
                conn.execute("SELECT * FROM t")
            conn.rollback()
            stand.stored("DROP TABLE t")


PARTITIONS = """
CREATE TABLE visits (id int, y int, note text, PRIMARY KEY (id, y)) PARTITION BY RANGE (y);
CREATE TABLE visits_2020s PARTITION OF visits FOR VALUES FROM (2020) TO (2030) PARTITION BY RANGE (y);
CREATE TABLE visits_2025 PARTITION OF visits_2020s FOR VALUES FROM (2025) TO (2026);
CREATE VIEW recent AS SELECT id, note FROM visits_2025;
"""
PROTECT = "COMMENT ON COLUMN {}.note IS 'openkcm: encrypt'"


def test_partition_of_a_partition_is_rejected(stand):
    stand.stored(PARTITIONS + PROTECT.format("visits"))
    with stand.connect(autocommit=True) as conn:
        for name in ("visits_2020s", "visits_2025", "recent"):
            assert is_rejected(conn, f"INSERT INTO {name} (id, note) VALUES (1, 'x')")
            assert is_rejected(conn, f"SELECT note FROM {name}")
        conn.execute("INSERT INTO visits VALUES (1, 2025, 'x')")
        assert conn.execute("SELECT note FROM visits").fetchall() == [("x",)]
    assert [note[:8] for (note,) in stand.stored("SELECT note FROM recent")] == ["okcm:c1:"]


@pytest.mark.parametrize("protected", ["visits_2020s", "visits_2025"])
def test_partition_without_its_parent_cannot_be_protected(stand, protected):
    stand.stored(PARTITIONS + PROTECT.format(protected))
    with stand.connect(autocommit=True) as conn:
        for name in ("visits", "visits_2020s", "visits_2025"):
            with pytest.raises(psycopg.Error, match=r"protect it there|is a partition of"):
                conn.execute(f"INSERT INTO {name} (id, y, note) VALUES (1, 2025, 'x')")
        with pytest.raises(ProtectionUnusable, match=r"is inherited from public\.visits"):
            conn.execute("SELECT note FROM visits")
    assert stand.stored("SELECT note FROM visits") == []


def test_partition_that_is_protected_with_its_parent_belongs_to_the_parent(stand):
    stand.stored(PARTITIONS + ";".join(PROTECT.format(name) for name in ("visits", "visits_2020s", "visits_2025")))
    with stand.connect(autocommit=True) as conn:
        conn.execute("INSERT INTO visits VALUES (1, 2025, 'x')")
        assert conn.execute("SELECT note FROM visits").fetchall() == [("x",)]
        assert is_rejected(conn, "SELECT note FROM visits_2025")
    [[answer]] = stand.stored(question(()).decode())
    assert list(read_answer(answer, ()).tables) == [("public", "visits")]


def test_column_that_a_child_adds_can_be_protected(stand):
    stand.stored(
        "CREATE TABLE base (id int, note text); CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (base)"
    )
    stand.stored("COMMENT ON COLUMN child.extra IS 'openkcm: encrypt'")
    with stand.connect(autocommit=True) as conn:
        conn.execute("INSERT INTO base VALUES (1, 'x')")
        conn.execute("INSERT INTO child VALUES (2, 'x', 'y')")
        assert conn.execute("SELECT note, extra FROM child").fetchall() == [("x", "y")]
    assert stand.stored("SELECT left(extra, 8) FROM child") == [("okcm:c1:",)]


def test_values_of_another_type_are_rejected(conn):
    with pytest.raises(ProtectionUnusable, match="is not text"):
        conn.execute("INSERT INTO customers (id, ssn) VALUES (1, %s)", (1.5,))
    with pytest.raises(ProtectionUnusable, match="does not have that column's type"):
        conn.execute("INSERT INTO customers (id, ssn) VALUES (%s, 'x')", (1.5,))
    conn.execute("INSERT INTO customers (id, ssn) VALUES (1, %s), (2, %s)", (77, -5))
    assert conn.execute("SELECT ssn FROM customers WHERE id < 3 ORDER BY id").fetchall() == [("77",), ("-5",)]


def test_nothing_is_sent_before_the_list_is_available(stand):
    stand.stored("CREATE TABLE t (id int PRIMARY KEY, c text)")
    stand.protection.problem = ProtectionUnreadable("connection_failed", "the crypto service is not reachable", "wait")
    with stand.connect(autocommit=True) as conn:
        for query in ("SELECT 1", "INSERT INTO t VALUES (1, 'x')", "DROP TABLE t"):
            with pytest.raises(ProtectionUnknown, match="not reachable"):
                conn.execute(query)
        assert stand.stored("SELECT * FROM t") == []
        stand.protection.problem = None
        conn.execute("INSERT INTO t VALUES (1, 'x')")
    assert stand.stored("SELECT c FROM t") == [("x",)]


def test_changed_list_applies_to_the_next_statement_on_every_connection(stand, conn):
    conn.execute("SELECT ssn FROM plain")
    with stand.connect(autocommit=True) as other:
        other.execute("SELECT ssn FROM plain")
        stand.protect({"place": "public.plain", "field": "ssn"}, {"store": Store.MONGODB, "place": "a.b", "field": "c"})
        conn.execute("INSERT INTO plain VALUES (1, 'x')")
        other.execute("INSERT INTO plain VALUES (2, 'x')")
        stand.protect()
        conn.execute("INSERT INTO plain VALUES (3, 'x')")
        other.execute("INSERT INTO plain VALUES (4, 'x')")
    stored = [ssn[:8] for (ssn,) in stand.stored("SELECT ssn FROM plain ORDER BY id")]
    assert stored == ["okcm:c1:", "okcm:c1:", "x", "x"]


def test_column_protected_at_run_time_is_encrypted_afterwards(stand, conn):
    conn.execute("INSERT INTO plain VALUES (1, 'x')")
    conn.execute("COMMENT ON COLUMN plain.ssn IS 'openkcm: encrypt'")
    conn.execute("INSERT INTO plain VALUES (2, 'x')")
    assert [ssn[:8] for (ssn,) in stand.stored("SELECT ssn FROM plain ORDER BY id")] == ["x", "okcm:c1:"]
