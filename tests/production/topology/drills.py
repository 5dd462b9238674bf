"""The drills: each breaks one part under load, and ends when everything has recovered without a hand."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tests.e2e.dashboard.harness import browser
from tests.production.topology.hosts import send
from tests.production.topology.installation import DASHBOARD, PRODUCT, SIGN_ON, Installation
from tests.production.topology.load import Load
from tests.production.topology.servers import wait_for

RECOVERY_SECONDS = 180
MOST_ERRORS = 5
_TRUNCATED = ("line-unreadable", "response-without-request", "request-without-response")
"""Discrepancies of a log on a full disk."""
_QUIET_SECONDS = 5.0
"""Of load before and after each drill."""


@dataclass(frozen=True)
class Drill:
    """`run` breaks something and repairs it again; `most_errors` is how many requests may fail."""

    name: str
    run: Callable[[Installation], None]
    most_errors: int = MOST_ERRORS
    discrepancies: frozenset[str] = frozenset()
    """Kinds of discrepancies of the key server's log that it causes while it runs."""


@dataclass(frozen=True)
class Result:
    name: str
    errors: int
    most_errors: int
    slowest_seconds: float
    recovery_seconds: float
    requests: int
    examples: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        return self.errors <= self.most_errors


def all_drills(pause: float) -> list[Drill]:
    """Return the drills; `pause` is how long a part is stopped or cut off, in seconds."""
    return [*_server_drills(pause), *_process_drills(pause), *_host_drills(pause), *_restarts()]


SHORT = (
    "kill the primary PostgreSQL",
    "kill the active OpenBao",
    "kill crypto@app1",
    "pause crypto@app2",
    "fill the journal's disk of app1",
    "move the clock of crypto@app1 by 2 min",
    "drain crypto@app1",
    "restart everything on app1 and app2",
    "restart every server",
    "sign in while the dashboards restart",
)
"""The drills of the short form."""


def _server_drills(pause: float) -> Iterator[Drill]:
    """Kill, pause and cut off each server, found by its role when the drill begins."""
    roles: dict[str, Callable[[Installation], str]] = {
        "the primary PostgreSQL": Installation.primary,
        "the standby PostgreSQL": lambda up: "postgres1" if up.primary() == "postgres2" else "postgres2",
        "the active OpenBao": Installation.active_key_server,
        "a standby OpenBao": lambda up: "openbao1" if up.active_key_server() != "openbao1" else "openbao2",
        "an etcd": lambda _: "etcd1",
        "Temporal": lambda _: "temporal",
        "the active load balancer": Installation.active_balancer,
    }
    for role, find in roles.items():
        yield Drill(f"kill {role}", partial(_kill_host, find))
        yield Drill(f"pause {role}", partial(_pause_host, find, pause))
        yield Drill(f"cut off {role}", partial(_cut_off, find, pause))


def _process_drills(pause: float) -> Iterator[Drill]:
    for process in (*PRODUCT, "pgbouncer"):
        yield Drill(f"kill {process}@app1", partial(_kill, f"{process}@app1"))
        yield Drill(f"pause {process}@app2", partial(_pause, f"{process}@app2", pause))


def _host_drills(pause: float) -> Iterator[Drill]:
    yield Drill("kill HAProxy of the active load balancer", _kill_haproxy)
    yield Drill("cut off app1", partial(_cut_off, lambda _: "app1", pause))
    disks: dict[str, Callable[[Installation], str]] = {
        "the journal's disk of app1": lambda _: "app1/crypto",
        "the disk of the primary PostgreSQL": lambda up: f"{up.primary()}/disk",
        "the disk of the active OpenBao": lambda up: up.active_key_server(),
    }
    for disk, find in disks.items():
        # OpenBao writes a part of a line to a full disk, and none for the response, which it does not send either.
        damage = frozenset(_TRUNCATED if "OpenBao" in disk else ())
        yield Drill(f"fill {disk}", partial(_fill_disk, find, pause), discrepancies=damage)
    for minutes in (2, -2):
        yield Drill(f"move the clock of crypto@app1 by {minutes} min", partial(_move_clock, minutes * 60, pause))


def _restarts() -> Iterator[Drill]:
    for process in PRODUCT:
        yield Drill(f"drain {process}@app1", partial(_drain, f"{process}@app1"), most_errors=0)
    yield Drill("restart everything on app1 and app2", _restart_all, most_errors=0)
    yield Drill("restart every server", _restart_servers, most_errors=0)
    yield Drill("sign in while the dashboards restart", _sign_in, most_errors=0)


def _kill_host(find: Callable[[Installation], str], installed: Installation) -> None:
    for pid in installed.hosts[find(installed)].pids():
        send(pid, signal.SIGKILL)


def _pause_host(find: Callable[[Installation], str], seconds: float, installed: Installation) -> None:
    pids = installed.hosts[find(installed)].pids()
    for pid in pids:
        send(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        send(pid, signal.SIGCONT)


def _cut_off(find: Callable[[Installation], str], seconds: float, installed: Installation) -> None:
    host = installed.hosts[find(installed)]
    host.cut_off()
    time.sleep(seconds)
    host.reconnect()


def _kill(name: str, installed: Installation) -> None:
    installed.programs[name].send(signal.SIGKILL)


def _kill_haproxy(installed: Installation) -> None:
    _kill(f"haproxy@{installed.active_balancer()}", installed)


def _pause(name: str, seconds: float, installed: Installation) -> None:
    program = installed.programs[name]
    program.send(signal.SIGSTOP)
    time.sleep(seconds)
    program.send(signal.SIGCONT)


def _fill_disk(find: Callable[[Installation], str], seconds: float, installed: Installation) -> None:
    file = installed.folder / find(installed) / "full"
    with file.open("wb", buffering=0) as filling:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    filling.write(b"0" * size)
            except OSError:
                continue
    time.sleep(seconds)
    file.unlink()


def _move_clock(seconds: float, pause: float, installed: Installation) -> None:
    """Move the clock of one crypto service, until it reports so and for a while longer, and set it again."""
    program, clock = installed.programs["crypto@app1"], installed.folder / "app1" / "clock"
    usual = program.environment
    clock.write_text("+0", encoding="utf-8")
    program.environment = usual | installed.clock_from(clock)
    _drain(program.name, installed)
    wait_for("crypto@app1", lambda: installed.is_ready("app1"))
    clock.write_text(f"{seconds:+.0f}", encoding="utf-8")
    wait_for("the fault is noticed", lambda: not installed.is_ready("app1"))
    time.sleep(pause)
    clock.write_text("+0", encoding="utf-8")
    wait_for("the fault is over", lambda: installed.is_ready("app1"))
    program.environment = usual
    _drain(program.name, installed)


def _drain(name: str, installed: Installation) -> None:
    program = installed.programs[name]
    program.terminate()
    program.start()


def _restart_all(installed: Installation) -> None:
    for host in ("app1", "app2"):
        for process in PRODUCT:
            _drain(f"{process}@{host}", installed)
        wait_for(f"{host} after its restart", lambda: not broken(installed), RECOVERY_SECONDS)


def _restart_servers(installed: Installation) -> None:
    for name in ("etcd1", "etcd2", "etcd3", "postgres1", "postgres2", "openbao1", "openbao2", "openbao3", "temporal"):
        _drain(name, installed)
        wait_for(f"{name} after its restart", lambda: not broken(installed), RECOVERY_SECONDS)


def _sign_in(installed: Installation) -> None:
    """Begin a sign-on at one dashboard, end it at the other, and stay signed in when that one ends too."""
    with browser.chromium() as started:
        window = browser.Visitor(started, DASHBOARD, SIGN_ON)
        for number, (first, second) in enumerate((("app1", "app2"), ("app2", "app1"))):
            _stop_dashboard(second, installed)
            if number == 0:
                window.open("/")
                window.page.get_by_role("button", name=browser.SIGN_IN).click()
                window.page.get_by_role("button", name="Olga Operator").wait_for()
            installed.programs[f"dashboard@{second}"].start()
            wait_for(f"dashboard@{second}", lambda host=second: installed.is_alive(host, 18501))
            _stop_dashboard(first, installed)
            if number == 0:
                window.page.get_by_role("button", name="Olga Operator").click()
                window.page.wait_for_url("**/operations/**")
            else:
                window.page.reload()
            browser.drawn(window.page)
            installed.programs[f"dashboard@{first}"].start()
            wait_for(f"dashboard@{first}", lambda host=first: installed.is_alive(host, 18501))
        window.close()


def _stop_dashboard(host: str, installed: Installation) -> None:
    installed.programs[f"dashboard@{host}"].terminate()
    time.sleep(1)  # until the load balancer has noticed


def perform(drill: Drill, installed: Installation, load: Load) -> Result:
    """Run a drill under load; raises TimeoutError when something does not recover."""
    time.sleep(_QUIET_SECONDS)
    began, answered = time.monotonic(), load.answered()
    drill.run(installed)
    recovery = wait_for(f"recovery after: {drill.name}", lambda: not broken(installed), RECOVERY_SECONDS)
    time.sleep(_QUIET_SECONDS)
    failures = load.failures_since(began)
    examples = [f"{text}, {count} times" for text, count in Counter(one.what for one in failures).most_common(5)]
    return Result(
        drill.name,
        len(failures),
        drill.most_errors,
        round(load.slowest_since(began), 1),
        round(recovery, 1),
        load.answered() - answered,
        examples,
    )


def broken(installed: Installation) -> str:
    """Return the first part that does not work, or nothing."""
    for check, name in (
        (lambda: any(True for _ in _found(installed.primary)), "no primary PostgreSQL"),
        (installed.has_standby, "no synchronous standby"),
        (lambda: any(True for _ in _found(installed.active_key_server)), "no active OpenBao"),
        (installed.has_all_key_servers, "an OpenBao does not run"),
        (installed.has_balancers, "a load balancer does not run, or not one has the address"),
        *((lambda host=host: installed.is_ready(host), f"crypto@{host} is not ready") for host in ("app1", "app2")),
        *((lambda host=host: installed.worker_is_ready(host), f"worker@{host}") for host in ("app1", "app2")),
        *(
            (lambda host=host, port=port: installed.is_alive(host, port), f"port {port} of {host}")
            for host in ("app1", "app2")
            for port in (18080, 18501, 18081)
        ),
    ):
        if not check():
            return name
    return ""


def lost_records(installed: Installation, load: Load) -> dict[str, int]:
    """Return how many answered requests have no audit record, by tenant and operation; all processes are running."""
    lost = {}
    for service in load.services:
        recorded = Counter[str]()
        with installed.superuser() as connection:
            rows = connection.execute("select record from okcm.audit_event where tenant_id = %s", [service.tenant_id])
            for (record,) in rows:
                event = json.loads(record)
                details = event.get("details", {})
                if event["outcome"] == "success" and "operation" in details:
                    recorded[details["operation"]] += int(details.get("count", "1"))
        for operation, answered in service.answered.items():
            if recorded[operation] < answered:
                lost[f"{service.tenant_id} {operation}"] = answered - recorded[operation]
    return lost


def inactive_tenants(installed: Installation, load: Load) -> list[str]:
    """Return the tenants that were enabled and are not active."""
    with installed.superuser() as connection:
        rows = connection.execute("select tenant_id from okcm.tenant where state = 'active'").fetchall()
    return sorted(set(load.enabled) - {tenant for (tenant,) in rows})


def _found(search: Callable[[], str]) -> Iterator[str]:
    try:
        yield search()
    except StopIteration:
        return
