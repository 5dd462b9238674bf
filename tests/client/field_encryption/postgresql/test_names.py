"""Names in a statement mean the table or query that they mean for PostgreSQL."""

import pytest

from openkcm.field_encryption.postgresql.errors import StatementRefused

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, name text, ssn text, email text);
COMMENT ON COLUMN customers.ssn IS 'openkcm: encrypt';
COMMENT ON COLUMN customers.email IS 'openkcm: encrypt deterministic';
CREATE SCHEMA other;
CREATE TABLE other.customers (id int PRIMARY KEY, name text, ssn text, email text);
CREATE TABLE guests (id int PRIMARY KEY, ssn text);
COMMENT ON COLUMN guests.ssn IS 'openkcm: encrypt';
"""


@pytest.fixture
def conn(stand):
    stand.stored(TABLES)
    with stand.connect(autocommit=True) as connection:
        insert = "INSERT INTO {}.customers VALUES (101, 'Ann', 's1', 'ann@x'), (102, 'Bob', 's2', 'bob@x')"
        connection.execute(insert.format("public"))
        connection.execute("INSERT INTO other.customers VALUES (1, 'Oth', 'o1', 'oth@x')")
        connection.execute("INSERT INTO guests VALUES (1, 'g1')")
        yield connection


REJECTED = [
    (
        "WITH x AS (SELECT ssn FROM guests) INSERT INTO public.customers (id, name) VALUES (101, 'x')"
        " ON CONFLICT (id) DO UPDATE SET name = (SELECT ssn FROM x)"
    ),
    (
        "WITH x AS (SELECT ssn FROM guests) INSERT INTO guests (id) VALUES (1)"
        " ON CONFLICT (id) DO UPDATE SET ssn = NULL WHERE EXISTS (SELECT 1 FROM x WHERE x.ssn = 'g1')"
    ),
    (
        "WITH x AS (SELECT ssn FROM guests) INSERT INTO other.customers (id) VALUES (1)"
        " ON CONFLICT (id) DO UPDATE SET name = (SELECT ssn FROM x)"
    ),
    "SELECT id FROM public.customers WHERE EXISTS (SELECT FROM other.customers WHERE public.customers.ssn = 's1')",
    "SELECT id FROM public.customers WHERE (SELECT public.customers.ssn FROM other.customers LIMIT 1) = 's1'",
    "SELECT to_json(public.customers.*) FROM other.customers, public.customers",
    "UPDATE public.customers SET ssn = 'x' FROM other.customers WHERE other.customers.id = 101",
    "UPDATE public.customers SET name = public.customers.ssn FROM other.customers WHERE public.customers.id = 101",
    "UPDATE other.customers SET name = public.customers.ssn FROM public.customers",
    "SELECT 1 FROM other.customers, public.customers WHERE customers.email = 'ann@x'",
    "SELECT DISTINCT public.customers.ssn, other.customers.id FROM public.customers, other.customers",
]
RETURNED = [
    (
        (
            "WITH customers AS (SELECT 'cte' AS ssn) INSERT INTO guests (id) VALUES (1)"
            " ON CONFLICT (id) DO UPDATE SET ssn = NULL"
            " WHERE EXISTS (SELECT 1 FROM customers WHERE customers.ssn = 'cte') RETURNING ssn"
        ),
        [(None,)],
    ),
    (
        (
            "SELECT id FROM public.customers WHERE EXISTS "
            "(SELECT FROM other.customers WHERE public.customers.email = 'ann@x')"
        ),
        [(101,)],
    ),
    (
        "SELECT id FROM other.customers WHERE EXISTS (SELECT FROM public.customers WHERE other.customers.ssn = 'o1')",
        [(1,)],
    ),
    ("SELECT other.customers.ssn FROM public.customers, other.customers WHERE public.customers.id = 101", [("o1",)]),
    (
        (
            "SELECT public.customers.ssn, other.customers.ssn FROM other.customers, public.customers ORDER BY 1 + 0,"
            " public.customers.id"
        ),
        [("s1", "o1"), ("s2", "o1")],
    ),
    ("SELECT other.customers.* FROM public.customers, other.customers LIMIT 1", [(1, "Oth", "o1", "oth@x")]),
    (
        "SELECT public.customers.* FROM other.customers, public.customers WHERE public.customers.id = 101",
        [(101, "Ann", "s1", "ann@x")],
    ),
    ("SELECT public.customers.ssn FROM public.customers WHERE id = 101", [("s1",)]),
    ("SELECT public.guests.ssn FROM guests", [("g1",)]),
    (
        "SELECT DISTINCT public.customers.ssn, public.customers.id FROM other.customers, public.customers ORDER BY 2",
        [("s1", 101), ("s2", 102)],
    ),
    (
        (
            "UPDATE public.customers SET ssn = 'x' FROM other.customers WHERE public.customers.id = 101"
            " RETURNING public.customers.ssn, other.customers.ssn"
        ),
        [("x", "o1")],
    ),
    (
        "UPDATE other.customers SET name = other.customers.ssn FROM public.customers RETURNING other.customers.name",
        [("o1",)],
    ),
    (
        (
            "DELETE FROM public.customers USING other.customers WHERE public.customers.email = 'bob@x'"
            " RETURNING public.customers.ssn"
        ),
        [("s2",)],
    ),
]


def is_rejected(conn, query):
    try:
        conn.execute(query)
    except StatementRefused:
        return True
    return False


def test_statement_that_stores_or_compares_ciphertext_is_rejected(stand, conn):
    tables = ("public.customers", "other.customers", "guests")
    before = [stand.stored(f"SELECT * FROM {table} ORDER BY id") for table in tables]
    assert [query for query in REJECTED if not is_rejected(conn, query)] == []
    assert [stand.stored(f"SELECT * FROM {table} ORDER BY id") for table in tables] == before


@pytest.mark.parametrize(("query", "rows"), RETURNED)
def test_schema_decides_between_tables_of_one_name(conn, query, rows):
    assert conn.execute(query).fetchall() == rows


VIEWS = [
    "SELECT t FROM guests t",
    "SELECT t.* FROM guests t",
    "SELECT (t.*)::text FROM guests t",
    "SELECT t.id, row_to_json(t) FROM guests t",
    "SELECT t.id, (SELECT to_json(t)) FROM guests t",
    "SELECT id FROM guests t WHERE t IS NOT NULL",
    "SELECT id FROM guests WHERE guests::text LIKE '%g1%'",
    "SELECT j::text FROM (guests g JOIN other.customers c ON c.id = g.id) AS j",
    "SELECT s::text FROM (SELECT * FROM guests) s",
    "SELECT count(t) FROM guests t",
    "SELECT c.id, x::text FROM other.customers c CROSS JOIN LATERAL (SELECT guests FROM guests) x",
]
HARMLESS = [
    "SELECT t.id FROM guests t",
    "SELECT count(*) FROM guests",
    "SELECT c FROM other.customers c, guests",
    "SELECT s.* FROM (SELECT id FROM guests) s",
]


def test_view_that_reads_whole_rows_shows_protected_columns(stand, conn):
    for number, query in enumerate(VIEWS + HARMLESS):
        stand.stored(f"CREATE VIEW view_{number} AS {query}")
        stand.stored(f"CREATE VIEW above_{number} AS SELECT * FROM view_{number}")
    stand.now += 31
    for number, query in enumerate(VIEWS + HARMLESS):
        for name in (f"view_{number}", f"above_{number}"):
            assert (query, is_rejected(conn, f"SELECT * FROM {name}")) == (query, query in VIEWS)
