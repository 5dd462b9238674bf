"""Services get their keys while a server of the platform is down, and the audit stream contains every release."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import monotonic

import pytest

from tests.concurrency import wait_until
from tests.e2e.clients import OK, Program, data_key, start_program
from tests.e2e.connected import hold_lock
from tests.e2e.outages import children_of, down, hanging, wait_until_changes_are_read
from tests.e2e.stack import Stack
from tests.e2e.tenants import new_tenant

NAMES = ("warm", "cold", "cool", "chilly")
ON_HTTPS, ON_KMIP = (
    ("encrypt", "decrypt", "data key"),
    ("Get", "Encrypt", "Create", "Get Attributes", "Locate", "Query"),
)
EVERYTHING = dict.fromkeys((*ON_HTTPS, *ON_KMIP), OK)


@pytest.fixture(scope="module")
def programs(stack, tenant, tmp_path_factory) -> Iterator[dict[str, Program]]:
    """Services of one tenant, and one of another tenant."""
    folder = tmp_path_factory.mktemp("programs")
    tenants = dict.fromkeys(NAMES, tenant) | {"calm": new_tenant(stack, "calm")}
    with ThreadPoolExecutor(len(tenants)) as pool:
        started = pool.map(lambda name: start_program(stack, tenants[name], folder, name), tenants)
        made = dict(zip(tenants, started, strict=True))
    yield made
    for program in made.values():
        program.hang_up()


def clear_caches(stack: Stack, tenant_id: str, programs: dict[str, Program]) -> None:
    """Make the crypto service clear its caches of a tenant."""
    with hold_lock(stack, tenant_id):
        for program in programs.values():
            if program.service.tenant_id == tenant_id:
                wait_until(program.refuses_all, lambda: "the lock has no effect")
                program.hang_up()
    wait_until_changes_are_read(stack)


def warm_up(stack: Stack, program: Program) -> None:
    """Fill the caches with what the program needs; its first Get changes the object's attribute Fresh."""
    wait_until(program.works, lambda: str(program.probe()))
    wait_until_changes_are_read(stack)
    assert program.probe() == EVERYTHING


def crypto_processes(stack: Stack) -> list[int]:
    parent = stack.pids()["crypto"]
    return [parent, *children_of(parent)]


REJECTED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "temporal": ({}, {}),
    "openbao": (
        {},
        dict.fromkeys(ON_HTTPS, "root_key_unreachable")
        | dict.fromkeys(("Get", "Encrypt", "Create"), "the root key's server does not answer"),
    ),
    "postgres": (
        dict.fromkeys(("Create", "Locate"), "the database does not answer"),
        {"encrypt": "database_unavailable"} | dict.fromkeys(("Get", "Query"), "the database does not answer"),
    ),
}
"""Rejected requests while a server is down: of a service whose key is cached, and of one whose key is not."""


@pytest.mark.parametrize("component", REJECTED)
def test_requests_succeed_without_an_unneeded_server_and_others_name_the_missing_server(
    stack, tenant, programs, component
):
    warm, cold = programs["warm"], programs["cold"]
    clear_caches(stack, tenant, programs)
    warm_up(stack, warm)
    before = crypto_processes(stack)
    refused_warm, refused_cold = REJECTED[component]
    asked_cold = EVERYTHING if component != "postgres" else refused_cold  # each rejected request waits for two seconds
    with down(stack, component):
        with ThreadPoolExecutor(2) as both:
            of_warm, of_cold = both.submit(warm.probe), both.submit(cold.probe, *asked_cold)
        assert of_warm.result() == EVERYTHING | refused_warm
        assert of_cold.result() == {name: refused_cold.get(name, OK) for name in asked_cold}
    wait_until(lambda: cold.probe() == warm.probe() == EVERYTHING, lambda: f"{cold.probe()} {warm.probe()}")
    assert crypto_processes(stack) == before


def test_releases_during_an_outage_of_the_database_are_recorded_afterwards(stack, tenant, programs):
    warm = programs["warm"]
    warm_up(stack, warm)
    before, found = stack.last_record(tenant), Counter[str]()
    wanted = {f"dead.{number}" for number in range(50)}
    with down(stack, "postgres"):
        for one in sorted(wanted):
            assert warm.https(data_key("record/1", one)) == OK

    def delivered() -> bool:
        found.clear()
        events = stack.events(tenant, before)
        found.update(one["correlation_id"] for one in events if one["name"] == "crypto.key_released")
        return wanted <= found.keys()

    wait_until(delivered, lambda: "releases are missing in the stream")
    assert {found[one] for one in wanted} == {1}


def test_a_hanging_key_server_does_not_slow_tenants_with_cached_keys(stack, tenant, programs):
    """The key server is halted; one tenant requests its keys with many threads, and the other tenant is served."""
    calm, cold = programs["calm"], [programs[name] for name in NAMES]
    wait_until(lambda: calm.probe() == EVERYTHING, lambda: str(calm.probe()))
    clear_caches(stack, tenant, programs)
    stop = threading.Event()
    refused: Counter[str] = Counter()

    def hammer(program: Program) -> None:
        alone = Program(program.service, program.object_id)
        while not stop.is_set():
            refused[alone.https(data_key("record/1"))] += 1
        alone.hang_up()

    milliseconds: list[float] = []
    with hanging(stack, "openbao"), ThreadPoolExecutor(12) as pool:
        for program in cold * 3:
            pool.submit(hammer, program)
        until = monotonic() + 6
        while monotonic() < until:
            began = monotonic()
            assert calm.probe("data key", "Get") == {"data key": OK, "Get": OK}
            milliseconds.append((monotonic() - began) * 1000)
        stop.set()
    wait_until(lambda: all(one.probe() == EVERYTHING for one in cold), lambda: "the services do not recover")
    assert set(refused) <= {"root_key_unreachable", "too_many_requests"}
    # Each request of the first tenant waits seconds for the deadline of the key server; these requests must not.
    assert median(milliseconds) < 1000
