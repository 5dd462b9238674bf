"""Operators' queries: correct with 10,000 tenants, with one scan of the table, and only for the dashboard's role."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from core.services import CryptoOperation
from core.tenants.lifecycle import State, Transition
from core.tenants.provisioning import Step, StepState
from database.platform.operators import Operations, Problem, TenantFilter
from database.postgres.access import CURRENT_TRANSACTION, PLATFORM, sign
from database.tenants import TenantRow
from tests.database.builders import a_provisioned_tenant, an_event, some_uses
from tests.database.fixtures import Field, Server, clone
from tests.database.platform.many import TENANTS, add_many_tenants

PROMISE = 180.0


@pytest.fixture(scope="module")
def many(server: Server, template: str) -> Iterator[Field]:
    with clone(server, template) as field:
        add_many_tenants(field)
        yield field


@pytest.fixture(scope="module")
def operations(many: Field) -> Operations:
    return Operations(many.open("dashboard", max_size=2), PROMISE)


@pytest.fixture(scope="module")
def rows(many: Field) -> list[TenantRow]:
    with many.administrator() as administrator:
        found = administrator.execute(
            "select tenant_id, organization, region, state, root_key_mode, requested_at, ready_at, promise_broken_at"
            " from okcm.tenant where tenant_id not like 'openkcm-%'"
        ).fetchall()
    return sorted((TenantRow(*row[:3], State(row[3]), *row[4:]) for row in found), key=lambda row: row.tenant_id)


def is_overdue(row: TenantRow) -> bool:
    waiting = row.state in {State.REQUESTED, State.PROVISIONING}
    return waiting and row.requested_at < datetime.now(UTC) - timedelta(seconds=PROMISE)


def is_late(row: TenantRow) -> bool:
    return row.promise_broken_at is not None or row.state is State.FAILED or is_overdue(row)


def every_page(operations: Operations, wanted: TenantFilter, size: int) -> list[TenantRow]:
    found: list[TenantRow] = []
    after = ""
    while page := operations.page(wanted, after, size):
        assert len(page) <= size
        found += [one.tenant for one in page]
        after = found[-1].tenant_id
    return found


@pytest.mark.parametrize(
    "wanted",
    [
        TenantFilter(),
        TenantFilter(state=State.FAILED),
        TenantFilter(region="us-east-1"),
        TenantFilter(problem=Problem.LATE),
        TenantFilter(search="tenant-0"),
        TenantFilter(search="SöHNE"),
        TenantFilter(state=State.ACTIVE, region="eu-west-1", problem=Problem.LATE, search="organization"),
    ],
    ids=str,
)
def test_pages_equal_the_filtered_list(operations: Operations, rows: list[TenantRow], wanted: TenantFilter) -> None:
    naive = [
        row
        for row in rows
        if wanted.state in {None, row.state}
        and wanted.region in {None, row.region}
        and (wanted.problem is None or is_late(row))
        and (
            wanted.search is None
            or row.tenant_id.startswith(wanted.search.lower())
            or wanted.search.lower() in row.organization.lower()
        )
    ]
    assert len(naive) > 5
    assert every_page(operations, wanted, 997 if len(naive) > 1000 else 7) == naive


@pytest.mark.parametrize("search", ["tenant-%", "_enant-0", "100%_", "'; drop table okcm.tenant; --", "\0", "\\"])
def test_search_text_is_neither_pattern_nor_sql(operations: Operations, search: str) -> None:
    assert operations.page(TenantFilter(search=search), "", 10) == []


def test_search_finds_a_percent_sign(operations: Operations) -> None:
    assert len(every_page(operations, TenantFilter(search="100% s"), 50)) == TENANTS // 50


def test_counts_include_all_customers_and_no_canary_tenant(operations: Operations, rows: list[TenantRow]) -> None:
    counts = operations.counts()
    assert sum(count.tenants for count in counts) == len(rows) == TENANTS
    for count in counts:
        there = [row for row in rows if (row.region, row.state) == (count.region, count.state)]
        assert (count.tenants, count.late) == (len(there), sum(map(is_late, there)))


def test_stuck_tenants_are_ordered_by_waiting_time(operations: Operations, rows: list[TenantRow]) -> None:
    naive = sorted(
        (row for row in rows if row.state is State.FAILED or is_overdue(row)),
        key=lambda row: (row.requested_at, row.tenant_id),
    )
    stuck = operations.stuck(20)
    assert [row.tenant_id for row in stuck] == [row.tenant_id for row in naive[:20]]
    assert {(row.step, row.step_state) for row in stuck} == {(Step.CREATE_KEYS, StepState.PENDING)}


def test_provisioning_times_are_those_of_the_newest_ready_tenants(
    operations: Operations, rows: list[TenantRow]
) -> None:
    ready = sorted((row.requested_at, row.ready_at) for row in rows if row.ready_at is not None)
    times = operations.times(500)
    assert [(time.requested_at, time.ready_at) for time in times] == ready[:-501:-1]
    assert {time.seconds for time in times} <= set(map(float, range(1, 8)))


def test_only_rejected_requests_of_services_are_a_problem(field: Field) -> None:
    worker, crypto = field.open("worker"), field.open("crypto", max_size=1)
    operations = Operations(field.open("dashboard"), PROMISE)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    a_provisioned_tenant(worker, "acme")
    with worker.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.ACTIVATE)
    # A revoked or disconnected service is named in its certificate, also when its connection is rejected.
    for service, expected in (("", None), ("orders", 1)):
        rejected = some_uses(service, operation=CryptoOperation.CONNECT, refusal="client_not_authorized", minute=now)
        with crypto.tenant_tx("acme") as tx:
            tx.usage.add([rejected], f"batch-{service}")
            assert tx.usage.recent(now).refused == (rejected.count if service else 0)
        assert operations.problems().get(Problem.REQUESTS) == expected


def test_stuck_tenant_shows_the_first_unfinished_step_of_its_newest_operation(field: Field) -> None:
    worker = field.open("worker")
    operations = Operations(field.open("dashboard"), PROMISE)
    a_provisioned_tenant(worker, "acme")
    with worker.tenant_tx("beta") as tx:
        tx.tenants.request(an_event("beta"))
    assert operations.stuck(10) == []
    with worker.tenant_tx("acme") as tx:
        tx.steps.fail("provision-1", Step.OPEN_RECORDS, "vault_refused")
        tx.tenants.move(Transition.FAIL)
    with worker.tenant_tx("acme") as tx:
        tx.steps.plan("provision-2", [*Step])
        tx.steps.finish("provision-2", Step.OPEN_RECORDS, datetime.now(UTC))
        tx.steps.retry("provision-2", Step.CREATE_KEYS, "vault_unavailable")
        tx.steps.retry("provision-2", Step.CREATE_KEYS, "vault_unavailable")
    with field.administrator() as administrator:
        administrator.execute("update okcm.tenant set requested_at = now() - interval '200 s' where tenant_id = 'beta'")
    beta, acme = operations.stuck(10)
    assert (acme.step, acme.step_state, acme.attempts, acme.problem) == (
        Step.CREATE_KEYS,
        StepState.RETRYING,
        2,
        "vault_unavailable",
    )
    assert (beta.tenant_id, beta.state, beta.step, beta.step_state, beta.attempts, beta.problem) == (
        "beta",
        State.REQUESTED,
        None,
        None,
        0,
        None,
    )


ROWS = 25
LATELY = "statement_timestamp() - interval '5 minutes'"
QUERIES = {
    "counts": "select * from okcm.count_tenants('3 minutes')",
    "page": f"select * from okcm.page_with_problems(null, null, null, null, '3 minutes', {LATELY}, 'tenant-', {ROWS})",
    "problems": f"select * from okcm.page_with_problems(null, null, 'any', null, '3 minutes', {LATELY}, 'tenant', 25)",
    "problem counts": f"select * from okcm.count_problems('3 minutes', {LATELY})",
    "stuck": "select * from okcm.stuck_tenants('3 minutes', 20)",
    "times": "select * from okcm.provisioning_times(500)",
}


@pytest.mark.parametrize("query", QUERIES)
def test_query_verifies_the_signature_once_and_scans_the_table_once(many: Field, query: str) -> None:
    """Checks the executed plan, which PostgreSQL reports from inside the function."""
    plans: list[dict] = []
    with many.administrator() as connection:
        connection.add_notice_handler(
            lambda notice: plans.append(json.loads((notice.message_primary or "").partition("plan:\n")[2]))
        )
        connection.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_analyze = on;"
            "set auto_explain.log_nested_statements = on; set auto_explain.log_level = notice;"
            "set auto_explain.log_format = json; set auto_explain.log_timing = off; set client_min_messages = notice;"
            "set session authorization okcm_dashboard"
        )
        with connection.transaction():
            [transaction] = connection.execute(CURRENT_TRANSACTION.encode()).fetchone() or ("",)
            context = sign(many.key("dashboard"), PLATFORM, transaction)
            connection.execute(
                "select set_config('app.tenant_id', '*', true), set_config('app.ctx', %s, true)", [context]
            )
            plans.clear()
            connection.execute(QUERIES[query]).fetchall()
    nodes = [node for plan in plans if "okcm.tenant" in plan["Query Text"] for node in every_node(plan["Plan"])]
    scans = [node for node in nodes if node.get("Relation Name") == "tenant"]
    assert [node["Actual Loops"] for node in scans] == [1]
    if query == "page":
        assert scans[0]["Actual Rows"] <= ROWS
    checks = [node for node in nodes if node.get("Parent Relationship") in {"InitPlan", "SubPlan"}]
    assert checks
    # The signature is verified once for each table of the query; only the step of each stuck tenant, and the rejected
    # requests of each tenant, are looked up separately, through their index.
    repeated = [node for node in nodes if node["Actual Loops"] > 1]
    assert {node.get("Index Name", "operation_step_newest") for node in repeated if "Scan" in node["Node Type"]} <= {
        "operation_step_newest",
        "operation_step_pkey",
        "usage_hour_pkey",
    }
    assert all(node["Node Type"] != "Seq Scan" for node in repeated)


def every_node(plan: dict) -> Iterator[dict]:
    yield plan
    for child in plan.get("Plans", []):
        yield from every_node(child)
