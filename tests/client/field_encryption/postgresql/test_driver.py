"""Values are encrypted when stored and restored when read, through every interface of psycopg."""

import psycopg
import pytest
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row

from tests.client.field_encryption.stand import run_in_child

TABLE = """
CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, ssn text, photo bytea);
COMMENT ON COLUMN customers.ssn IS 'social security number; openkcm: encrypt';
COMMENT ON COLUMN customers.photo IS 'openkcm: encrypt';
"""


@pytest.fixture
def conn(stand):
    stand.stored(TABLE)
    with stand.connect() as connection:
        yield connection


def test_stored_values_are_ciphertext_and_read_values_are_plain(stand, conn):
    conn.execute("INSERT INTO customers (id, name, ssn, photo) VALUES (%s, %s, %s, %s)", (1, "Ann", "12-34", b"\0\xff"))
    conn.execute("INSERT INTO customers VALUES (2, 'Bob', '56-78', '\\x00ff')")
    conn.commit()
    rows = conn.execute("SELECT * FROM customers ORDER BY id").fetchall()
    assert rows == [(1, "Ann", "12-34", b"\0\xff"), (2, "Bob", "56-78", b"\0\xff")]
    for _, name, ssn, photo in stand.stored("SELECT * FROM customers"):
        assert name in {"Ann", "Bob"}
        assert ssn.startswith("okcm:c1:")
        assert photo.startswith("\\x006f6b636d01")


def test_database_may_generate_the_primary_key(conn):
    inserted = [
        conn.execute("INSERT INTO customers (name, ssn) VALUES (%s, %s) RETURNING id, ssn", ("n", str(n))).fetchone()
        for n in range(12)
    ]
    assert inserted == [(n + 1, str(n)) for n in range(12)]
    assert conn.execute("SELECT id, ssn FROM customers").fetchall() == inserted


def test_many_rows_at_once(stand, conn):
    cur = conn.cursor()
    cur.executemany("INSERT INTO customers (name, ssn) VALUES (%s, %s)", [("n", str(n)) for n in range(40)])
    assert cur.rowcount == 40
    cur.execute("INSERT INTO customers (name, ssn) VALUES (%s, %s), ('x', 'y'), (%s, NULL)", ("a", "b", "c"))
    cur.executemany(
        "INSERT INTO customers (name, ssn) VALUES (%(n)s, %(s)s) RETURNING ssn",
        [{"n": "n", "s": "q"}, {"n": "n", "s": "r"}],
        returning=True,
    )
    assert cur.fetchall() == [("q",)]
    assert cur.nextset()
    assert cur.fetchall() == [("r",)]
    read = conn.execute("SELECT ssn FROM customers").fetchall()
    assert read == [(str(n),) for n in range(40)] + [("b",), ("y",), (None,), ("q",), ("r",)]
    conn.commit()
    assert {ssn[:8] for (ssn,) in stand.stored("SELECT ssn FROM customers WHERE ssn IS NOT NULL")} == {"okcm:c1:"}


def test_a_pipeline(conn):
    with conn.pipeline():
        first = conn.execute("INSERT INTO customers (name, ssn) VALUES ('a', 's1') RETURNING id")
        second = conn.execute("SELECT ssn FROM customers")
        assert first.fetchone() == (1,)
        assert second.fetchone() == ("s1",)


def test_an_update_of_one_row(conn):
    conn.execute("INSERT INTO customers (id, name, ssn) VALUES (7, 'a', 'old')")
    conn.execute("UPDATE customers SET ssn = %(ssn)s, name = upper(name) WHERE id = %(id)s", {"id": 7, "ssn": "new"})
    cur = conn.execute("UPDATE customers c SET name = 'b' WHERE c.id = 7 AND ssn IS NOT NULL RETURNING ssn, c.name")
    assert cur.fetchall() == [("new", "b")]
    conn.execute("UPDATE customers SET ssn = NULL")
    assert conn.execute("SELECT ssn FROM customers").fetchall() == [(None,)]


def test_on_conflict(conn):
    insert = "INSERT INTO customers (id, name, ssn) VALUES (%s, 'a', %s) ON CONFLICT (id) DO UPDATE SET ssn = "
    conn.execute(insert + "excluded.ssn", (1, "one"))
    assert conn.execute(insert + "excluded.ssn RETURNING ssn", (1, "two")).fetchone() == ("two",)
    conn.execute(insert + "%s", (1, "no", "three"))
    assert conn.execute("SELECT ssn FROM customers").fetchall() == [("three",)]


@pytest.mark.parametrize("binary", [False, True])
def test_every_row_factory(conn, binary):
    conn.execute("INSERT INTO customers (id, name, ssn) VALUES (1, 'Ann', '12')")

    class Person:
        def __init__(self, ssn, name) -> None:
            self.ssn, self.name = ssn, name

    query = "SELECT ssn, name FROM customers"
    with conn.cursor(row_factory=dict_row, binary=binary) as cur:
        assert cur.execute(query).fetchone() == {"ssn": "12", "name": "Ann"}
        assert [column.name for column in cur.description] == ["ssn", "name"]
    with conn.cursor(row_factory=namedtuple_row, binary=binary) as cur:
        assert cur.execute(query).fetchone()._asdict() == {"ssn": "12", "name": "Ann"}
    with conn.cursor(row_factory=class_row(Person), binary=binary) as cur:
        assert cur.execute(query).fetchone().ssn == "12"
    with conn.cursor(row_factory=scalar_row, binary=binary) as cur:
        assert cur.execute(query).fetchall() == ["12"]
        cur.row_factory = dict_row
        cur.scroll(0, mode="absolute")
        assert cur.fetchone() == {"ssn": "12", "name": "Ann"}


def test_every_way_to_fetch(conn):
    conn.cursor().executemany("INSERT INTO customers (name, ssn) VALUES ('n', %s)", [(str(n),) for n in range(9)])
    want = [(str(n),) for n in range(9)]
    query = "SELECT ssn FROM customers ORDER BY id"
    cur = conn.execute(query)
    assert [cur.fetchone(), *cur.fetchmany(3), *cur] == want
    assert list(conn.cursor().stream(query)) == want
    for binary in (False, True):
        with conn.cursor("named") as named:
            named.itersize = 2
            named.execute(query, binary=binary)
            assert [column.name for column in named.description] == ["ssn"]
            assert [named.fetchone(), *named.fetchmany(2), *named] == want
    for _ in range(8):
        assert conn.execute(query + " OFFSET %s", (1,), prepare=True).fetchall() == want[1:]
    with psycopg.ClientCursor(conn) as client:
        client.execute("INSERT INTO customers (name, ssn) VALUES (%s, %s)", ("it's", "o'k"))
        assert client.execute("SELECT ssn FROM customers WHERE name = %s", ("it's",)).fetchone() == ("o'k",)


async def test_async(stand):
    stand.stored(TABLE)
    async with await stand.connect_async() as conn:
        await conn.execute("INSERT INTO customers (name, ssn) VALUES (%s, %s)", ("a", "1"))
        cur = conn.cursor(row_factory=dict_row)
        await cur.executemany("INSERT INTO customers (name, ssn) VALUES (%s, %s)", [("b", "2"), ("c", "3")])
        await cur.execute("SELECT * FROM customers ORDER BY id")
        assert [row["ssn"] async for row in cur] == ["1", "2", "3"]
        async with conn.cursor("named") as named:
            await named.execute("SELECT ssn FROM customers")
            assert await named.fetchall() == [("1",), ("2",), ("3",)]
        async with conn.pipeline():
            cur = await conn.execute("SELECT ssn FROM customers WHERE id = %s", (2,))
            assert await cur.fetchone() == ("2",)


def test_a_forked_process_encrypts_too(stand, conn):
    conn.execute("INSERT INTO customers (name, ssn) VALUES ('a', 's1')")
    conn.commit()

    def insert() -> bytes:
        with stand.connect() as own:
            own.execute("INSERT INTO customers (name, ssn) VALUES ('b', 's2')")
        return b"inserted"

    assert run_in_child(insert) == b"inserted"
    assert conn.execute("SELECT ssn FROM customers ORDER BY id").fetchall() == [("s1",), ("s2",)]


def test_key_survives_a_transaction_that_is_rolled_back(stand, conn):
    conn.execute("INSERT INTO customers (name, ssn) VALUES ('a', 's1')")
    conn.rollback()
    conn.execute("INSERT INTO customers (name, ssn) VALUES ('a', 's2')")
    conn.commit()
    stand.now += 61
    assert conn.execute("SELECT ssn FROM customers").fetchall() == [("s2",)]
    assert len(stand.stored("SELECT * FROM openkcm.column_key WHERE field = 'ssn'")) == 1
