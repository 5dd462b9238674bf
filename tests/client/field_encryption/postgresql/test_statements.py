"""Generated tables and statements: a protected application reads the same values as a plain one."""

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TABLES = """
CREATE TABLE plain (k int, n serial, a text, b text, c bytea, PRIMARY KEY (n));
CREATE TABLE "Guarded" (k int, n serial, a text, b text, c bytea, PRIMARY KEY (n));
COMMENT ON COLUMN "Guarded".a IS 'openkcm: encrypt';
COMMENT ON COLUMN "Guarded".b IS 'openkcm: encrypt deterministic';
COMMENT ON COLUMN "Guarded".c IS 'openkcm: encrypt';
"""

texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
rows = st.lists(st.tuples(st.integers(0, 9), texts, texts, st.none() | st.binary(max_size=20)), min_size=1, max_size=4)
columns = st.lists(
    st.sampled_from(["t.*", "a", "t.b", "c AS d", "k", "n", "t.c", "k + 1", "b"]), min_size=1, max_size=4
)
tails = st.sampled_from([
    "ORDER BY t.n", "WHERE t.a IS NOT NULL ORDER BY t.n", "ORDER BY t.n DESC LIMIT 2", "WHERE t.k > 3 ORDER BY t.k",
])  # fmt: skip
shapes = st.sampled_from([
    "SELECT {columns} FROM {table} AS t {tail}",
    "SELECT * FROM (SELECT {columns} FROM {table} AS t {tail}) AS s",
    "WITH s AS (SELECT * FROM {table}) SELECT {columns} FROM s AS t {tail}",
    "SELECT {columns} FROM {table} AS t LEFT JOIN (SELECT k AS kk FROM {table} LIMIT 1) AS o ON o.kk = t.k {tail}",
])  # fmt: skip


@st.composite
def inserts(draw):
    """Return a statement that contains `{table}`, and its parameters."""
    inserted_rows = draw(rows)
    wanted = draw(st.permutations(["k", "a", "b", "c"]))
    value = {"k": 0, "a": 1, "b": 2, "c": 3}
    groups = ", ".join("(" + ", ".join(["%s"] * 4) + ")" for _ in inserted_rows)
    query = f"INSERT INTO {{table}} ({', '.join(wanted)}) VALUES {groups}"
    query += draw(
        st.sampled_from(["", " RETURNING a, n", " RETURNING *", " ON CONFLICT (n) DO NOTHING RETURNING b AS x"])
    )
    return query, [row[value[name]] for row in inserted_rows for name in wanted]


def answer(conn: psycopg.Connection, query: str, values: list, *, binary: bool) -> tuple:
    cur = conn.cursor(binary=binary)
    cur.execute(query, values)
    names = [column.name for column in cur.description or ()]
    return names, cur.fetchall() if cur.description else cur.rowcount


def distinct_names(wanted: list[str], shape: str) -> bool:
    """Return whether the columns of a subquery have distinct names, which PostgreSQL requires as well."""
    shown = [name for one in wanted for name in (["k", "n", "a", "b", "c"] if one == "t.*" else [one.split()[-1][-1]])]
    return "AS s" not in shape or len(shown) == len(set(shown))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(statement=inserts(), wanted=columns, around=st.tuples(tails, shapes), binary=st.booleans(), data=st.data())
def test_protected_table_returns_the_same_rows_as_a_plain_one(stand, statement, wanted, around, binary, data):  # noqa: PLR0917 - generated
    tail, shape = around
    stand.stored('DROP TABLE IF EXISTS plain, "Guarded";' + TABLES)
    query, values = statement
    if not distinct_names(wanted, shape):
        shape = "SELECT {columns} FROM {table} AS t {tail}"
    select = shape.format(columns=", ".join(wanted), tail=tail, table="{table}")
    found = data.draw(st.sampled_from([value for value in values if isinstance(value, str)] or ["x"]))
    with stand.connect(autocommit=True) as conn:
        stand.now += 31
        for one, parameters in ((query, values), (select, []), ("SELECT n FROM {table} WHERE b = %s", [found])):
            plain, guarded = (
                answer(conn, one.format(table=table), parameters, binary=binary) for table in ("plain", '"Guarded"')
            )
            assert guarded == plain
    for stored in stand.stored('SELECT a, b FROM "Guarded"'):
        assert all(value is None or value.startswith("okcm:c") for value in stored)
