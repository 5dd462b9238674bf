"""The plans of hot queries with 10,000 tenants, and with few, on the oldest and the newest supported PostgreSQL.

`auto_explain` reports the executed plan of each statement, also of those within functions, under the role and the
signed context of the process. A query of one tenant may read only as many rows as the tenant has. A query that finds
tenants may read a fixed number of rows of each, but not all rows of a larger table. With few tenants the planner reads
whole tables, which must not happen once for each tenant.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from psycopg.errors import Diagnostic

from database.connection.database import Database
from tests.database.fixtures import Field
from tests.database.platform.hot_queries import HOT_QUERIES, HotQuery
from tests.database.platform.many import TENANTS, add_operating_tenants
from tests.database.schema import postgres_versions

pytestmark = pytest.mark.integration
_ROWS_OF_TENANT = 200
_EXECUTIONS = 7
"""A connection may plan the sixth execution of a statement in a function without the values of its parameters."""
# They are for the insertion of two million rows, and do not change a plan; `vacuum analyze` runs after it.
_BULK_LOAD = {"autovacuum": "off", "full_page_writes": "off", "max_wal_size": "8GB"}
_EXPLAIN = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
}


@pytest.fixture(
    scope="module",
    params=[("15", TENANTS, TENANTS), ("15", 1000, 1), pytest.param(("embedded", TENANTS, 1), marks=pytest.mark.full)],
    ids=str,
)
def size(request: pytest.FixtureRequest) -> tuple[str, int, int]:
    """The version of PostgreSQL, the number of tenants, and of those with uses."""
    return request.param


@pytest.fixture(scope="module")
def many(size: tuple[str, int, int]) -> Iterator[Field]:
    version, tenants, using = size
    with postgres_versions.migrated(version, **_BULK_LOAD) as field:
        add_operating_tenants(field, tenants, using)
        with field.administrator() as administrator:
            administrator.execute("alter database openkcm set session_preload_libraries = 'auto_explain'")
            for name, value in _EXPLAIN.items():
                administrator.execute(f"alter database openkcm set {name} = '{value}'")
        yield field


@pytest.fixture(scope="module")
def databases(many: Field) -> dict[str, Database]:
    return {role: many.open(role, max_size=1) for role in sorted({query.role for query in HOT_QUERIES.values()})}


@contextmanager
def plans_of(database: Database) -> Iterator[list[dict[str, Any]]]:
    """Yield the list to which each statement of the only connection adds its executed plan."""
    plans: list[dict[str, Any]] = []

    def add(notice: Diagnostic) -> None:
        before, _, plan = (notice.message_primary or "").partition("plan:\n")
        if before.startswith("duration:"):
            plans.append(json.loads(plan))

    with database.raw_tx("*") as connection:
        connection.add_notice_handler(add)
    plans.clear()
    try:
        yield plans
    finally:
        connection.remove_notice_handler(add)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(node: dict[str, Any]) -> float:
    """Return the rows that a scan read in all its executions, also those that its filter removed."""
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
    return (node["Actual Rows"] + sum(node.get(one, 0) for one in removed)) * node["Actual Loops"]


def most_read(plans: list[dict[str, Any]]) -> tuple[float, str]:
    """Return the largest number of rows that one scan of a table read, and its table."""
    scans = [
        (rows_read(node), f"{node['Node Type']} on {node.get('Relation Name', node.get('Index Name'))}")
        for plan in plans
        for node in nodes(plan["Plan"])
        if "Relation Name" in node or "Index Name" in node
    ]
    return max(scans, default=(0.0, "no table"))


@pytest.mark.parametrize("name", [name for name, query in HOT_QUERIES.items() if query.of_tenant])
def test_query_of_a_tenant_reads_only_rows_of_the_tenant(databases: dict[str, Database], name: str) -> None:
    check(databases, HOT_QUERIES[name], _ROWS_OF_TENANT)


@pytest.mark.parametrize("name", [name for name, query in HOT_QUERIES.items() if not query.of_tenant])
def test_query_for_tenants_reads_few_rows_of_each(
    databases: dict[str, Database], size: tuple[str, int, int], name: str
) -> None:
    # With some rows more: the step from a tenant to the next one.
    check(databases, HOT_QUERIES[name], (size[1] + 10) * HOT_QUERIES[name].rows)


def check(databases: dict[str, Database], query: HotQuery, limit: int) -> None:
    with plans_of(databases[query.role]) as plans:
        for _ in range(_EXECUTIONS):
            query.run(databases[query.role])
    assert plans
    rows, scan = most_read(plans)
    assert rows <= limit, scan
