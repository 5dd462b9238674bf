"""My services' keys are there when something of the platform is not, and no release is ever missing from the audit."""

import itertools
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from statistics import median
from time import monotonic

import pytest

from crypto.kmip.enums import Operation
from crypto.kmip.fields import text
from crypto.kmip.tags import Tag
from tests.crypto.kmip.messages import batch_item
from tests.stories.clients import OK, Program, data_key, get
from tests.stories.connected import connect, locked
from tests.stories.outages import children_of, down, hanging, kill_all
from tests.stories.stack import Stack, wait_until
from tests.stories.wires import HttpsWire, KmipWire

CALM = "calm-corp-8"
NAMES = ("warm", "cold", "cool", "chilly")
ON_HTTPS, ON_KMIP = (
    ("encrypt", "decrypt", "data key"),
    ("Get", "Encrypt", "Create", "Get Attributes", "Locate", "Query"),
)
EVERYTHING = dict.fromkeys((*ON_HTTPS, *ON_KMIP), OK)


@pytest.fixture(scope="module")
def programs(stack, acme, tmp_path_factory) -> Iterator[dict[str, Program]]:
    """ACME's services, and one of another tenant."""
    folder = tmp_path_factory.mktemp("programs")
    stack.enable(CALM, "Calm Corp")
    wanted = [*((acme, name) for name in NAMES), (CALM, "calm")]

    def running(one: tuple[str, str]) -> Program:
        program = Program(connect(stack, one[0], "microservice", one[1], folder / one[1]))
        program.settle()
        return program

    with ThreadPoolExecutor(len(wanted)) as crowd:
        made = dict(zip((*NAMES, "calm"), crowd.map(running, wanted), strict=True))
    yield made
    for program in made.values():
        program.hang_up()


def is_refused(program: Program) -> bool:
    """Whether every request is answered with a refusal; a connection that is ended by the change itself is not one."""
    try:
        return OK not in program.probe().values()
    except (ConnectionError, EOFError, ssl.SSLError):
        return False
    finally:
        program.hang_up()


def forget(stack: Stack, tenant_id: str, programs: dict[str, Program]) -> None:
    """Have the crypto service forget everything of a tenant."""
    with locked(stack, tenant_id):
        for program in programs.values():
            if program.service.tenant_id == tenant_id:
                wait_until(lambda one=program: is_refused(one), lambda: "the lock is not heard of")


def crypto_processes(stack: Stack) -> list[int]:
    parent = stack.pids()["crypto"]
    return [parent, *children_of(parent)]


GOES_ON: dict[str, tuple[dict[str, str], dict[str, str]]] = {
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
"""What is refused while a server is dead: to a service whose key is in memory, and to one whose key is not."""


@pytest.mark.parametrize("component", GOES_ON)
def test_what_can_go_on_without_a_server_goes_on_and_the_rest_says_what_is_missing(stack, acme, programs, component):
    warm, cold = programs["warm"], programs["cold"]
    forget(stack, acme, programs)
    wait_until(lambda: warm.probe() == EVERYTHING, lambda: str(warm.probe()))
    before = crypto_processes(stack)
    refused_warm, refused_cold = GOES_ON[component]
    asked_cold = EVERYTHING if component != "postgres" else refused_cold  # each of these waits for two seconds
    with down(stack, component):
        with ThreadPoolExecutor(2) as both:
            of_warm, of_cold = both.submit(warm.probe), both.submit(cold.probe, *asked_cold)
        assert of_warm.result() == EVERYTHING | refused_warm
        assert of_cold.result() == {name: refused_cold.get(name, OK) for name in asked_cold}
    wait_until(lambda: cold.probe() == warm.probe() == EVERYTHING, lambda: f"{cold.probe()} {warm.probe()}")
    assert crypto_processes(stack) == before


class Releases:
    """The releases of keys in a tenant's stream from now on, by correlation id; each look reads what is new."""

    def __init__(self, stack: Stack, tenant_id: str) -> None:
        self._stack, self._tenant_id = stack, tenant_id
        with stack.database().tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        self._last = 0 if head is None else head.seq
        self.found = Counter[str]()

    def hold(self, wanted: set[str]) -> bool:
        """Whether all that are `wanted` have come."""
        with self._stack.database().tenant_tx(self._tenant_id) as tx:
            while page := tx.audit.records(after=self._last):
                self._last = page[-1].seq
                records = (json.loads(one.record) for one in page)
                self.found.update(one["correlation_id"] for one in records if one["name"] == "crypto.key_released")
        return wanted <= self.found.keys()


def test_what_is_released_while_the_database_is_dead_is_in_the_stream_afterwards(stack, acme, programs):
    warm, releases = programs["warm"], Releases(stack, acme)
    assert warm.probe() == EVERYTHING
    with down(stack, "postgres"):
        for number in range(50):
            assert warm.https(data_key("record/1", f"dead.{number}")) == OK
    wanted = {f"dead.{number}" for number in range(50)}
    wait_until(lambda: releases.hold(wanted), lambda: "releases are missing in the stream")
    assert {releases.found[one] for one in wanted} == {1}


class Load:
    """Clients that ask for data keys and objects, one request after the other, until the service is gone."""

    def __init__(self, programs: dict[str, Program]) -> None:
        self.answered: list[str] = []
        self._threads = [
            threading.Thread(target=work, args=(program, f"kill.{name}"))
            for name, program in programs.items()
            for work in (self._data_keys, self._gets)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _data_keys(self, program: Program, name: str) -> None:
        with HttpsWire(program.service.open_https()) as wire, suppress(ConnectionError, EOFError, ssl.SSLError):
            for number in itertools.count():
                wire.ask(data_key("record/1", f"{name}.h.{number}"))
                self.answered.append(f"{name}.h.{number}")

    def _gets(self, program: Program, name: str) -> None:
        with KmipWire(program.service.open_kmip()) as wire, suppress(ConnectionError, ssl.SSLError):
            for number in itertools.count():
                wire.socket.sendall(get(program.object_id, f"{name}.k.{number}"))
                (item,) = wire.answer().all(Tag.BATCH_ITEM)
                assert item.first(Tag.RESULT_REASON) is None
                self.answered.append(f"{name}.k.{number}")


def test_after_a_kill_under_load_every_release_is_in_the_stream_once_and_it_serves_again(stack, acme, programs):
    releases = Releases(stack, acme)
    load = Load({name: programs[name] for name in NAMES[:3]})
    wait_until(lambda: len(load.answered) > 2000, lambda: f"{len(load.answered)} answers")
    parent = stack.pids()["crypto"]
    killed_at = monotonic()
    kill_all(parent)

    def serves() -> bool:
        try:
            return programs["chilly"].https(data_key("record/1")) == OK
        except OSError:
            return False

    wait_until(serves, lambda: "it does not serve again", 10)
    seconds = monotonic() - killed_at
    load.join()
    assert stack.pids()["crypto"] != parent
    wanted = set(load.answered)
    assert len(wanted) == len(load.answered)
    wait_until(lambda: releases.hold(wanted), lambda: "releases are missing in the stream")
    assert {releases.found[one] for one in wanted} == {1}
    print(f"{len(wanted)} releases; serves again {seconds:.2f} s after the kill")  # noqa: T201 - a measurement


def latencies(program: Program, enough: Callable[[int], bool]) -> list[float]:
    """Return how long each request on both connections took, in milliseconds, until there are enough."""
    it = batch_item(Operation.GET, text(Tag.UNIQUE_IDENTIFIER, program.object_id))
    found: list[float] = []
    while not enough(len(found)):
        began = monotonic()
        assert program.https(data_key("record/1")) == OK
        assert program.kmip(it) == OK
        found.append((monotonic() - began) * 500)
    return sorted(found)


def told(found: list[float]) -> str:
    """Return sorted milliseconds for a person."""
    p99 = found[len(found) * 99 // 100]
    return f"p50 {median(found):.2f} ms, p99 {p99:.2f} ms, most {found[-1]:.2f} ms of {len(found)}"


def test_a_tenant_whose_keys_hang_slows_no_other(stack, acme, programs):
    """The key server is halted; one tenant asks for all its keys anew, with many threads, the other goes on."""
    calm, cold = programs["calm"], [programs[name] for name in NAMES]
    assert calm.probe() == EVERYTHING
    quiet = latencies(calm, lambda count: count >= 300)
    forget(stack, acme, programs)
    stop = threading.Event()
    refused: Counter[str] = Counter()

    def hammer(program: Program) -> None:
        alone = Program(program.service, program.object_id)
        while not stop.is_set():
            refused[alone.https(data_key("record/1"))] += 1
        alone.hang_up()

    with hanging(stack, "openbao"), ThreadPoolExecutor(12) as crowd:
        for program in cold * 3:
            crowd.submit(hammer, program)
        until = monotonic() + 6
        busy = latencies(calm, lambda _: monotonic() > until)
        stop.set()
    wait_until(lambda: all(one.probe() == EVERYTHING for one in cold), lambda: "it does not recover")
    assert set(refused) <= {"root_key_unreachable", "too_many_requests"}
    print(f"quiet: {told(quiet)}; while the other hangs: {told(busy)}; {dict(refused)}")  # noqa: T201 - a measurement
    assert busy[len(busy) * 99 // 100] < 250
    assert busy[-1] < 2000
