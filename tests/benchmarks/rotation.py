"""Duration of a tenant key rotation with 10,000 service keys, and its effect on services and the key server."""

import asyncio
import os
import signal
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from config.secrets import Role
from core.keys.rotation import RotationPhase, RotationScope
from core.messages.keys import RotateRequest
from core.names import l2_key
from database.rotation import RotationRow
from tests.benchmarks import report
from tests.benchmarks.harness.open_loop import Answered, Steady, asking
from tests.benchmarks.harness.processes import CpuSpan, read_cpu
from tests.benchmarks.harness.service_fixture import connect, connected_stack, listeners
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.harness.work_counters import requests_between
from tests.benchmarks.report import Check, Result, percentile
from tests.kms.estate import make_service_keys
from tests.kms.opening import Opener
from worker import wiring
from workflows.client.connection import connect_client
from workflows.client.workflow_client import WorkflowClient

_TENANT, _OTHER = "many-services-corp", "new-keys-corp"
_REGION = "eu-west-1"
_CONNECTED = 4
_RATE, _CONNECTIONS = 200.0, 2
_MOST_RATIO = 1.2
_MOST_LATE = 1.2
_MOST_QUIET_SECONDS = 60.0
_SAMPLE = 50
_WARM_SECONDS = 5.0
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 600.0
_PROTOCOL = (
    "A tenant has {rows:,} service keys under the platform's root key, created through the worker's adapters; "
    "{connected} of them belong to connected services, which send {rate:g} requests per second in total to both "
    "listeners of the crypto service, over {connections} kept connections each, from a separate process in an open "
    "loop: POST /v1/encrypt, /v1/decrypt, KMIP Get and Decrypt in turn. {pairs} times they send requests for "
    "{quiet:.0f} s without other work, and then while the tenant key is rotated at the default `rewrap_per_second` of "
    "{throttle:g}, until all service keys are re-wrapped; p99 of the two is compared pair by pair. A latency counts "
    "from before the request is sent until its response has been read. Requests at the key server are counted in its "
    "audit log, CPU is read from /proc, and the values of the same load without a rotation are subtracted. Then the "
    "tenant key is rotated once more without a limit, and {new:,} service keys of another tenant get new versions, "
    "which become active. All of it shares {cores} cores. At the end {sample} service keys are unwrapped and compared "
    "with their former values."
)


@dataclass
class Window:
    """Measurements between two moments; latencies are in milliseconds, by listener."""

    name: str
    seconds: float
    latencies: dict[str, list[float]]
    not_served: int
    cpu: CpuSpan
    requests: Counter[str]
    progress: list[tuple[float, int]] = field(default_factory=list)
    whole_seconds: float = 0.0
    """From the request for a rotation until its end."""

    @property
    def unwraps(self) -> int:
        """The number of service keys that the crypto service unwrapped."""
        return self.requests[f"update transit/decrypt/{l2_key('TENANT')}"]

    def at(self, percent: float, listener: str | None = None) -> float:
        chosen = [self.latencies[listener]] if listener else self.latencies.values()
        found = [latency for latencies in chosen for latency in latencies]
        return percentile(found, percent) if found else 0.0

    def summary(self) -> dict[str, float]:
        p99 = {f"{listener} p99": round(self.at(99, listener), 2) for listener in self.latencies}
        return {"p50": round(self.at(50), 2), "p99": round(self.at(99), 2), **p99, "other load": self.cpu.others}

    def sampled(self) -> dict[str, Any]:
        """Return all values, with latencies in steps of half a percent."""
        shares = {
            listener: [percentile(latencies, half / 2) for half in range(1, 201)]
            for listener, latencies in ((listener, sorted(times)) for listener, times in self.latencies.items())
            if latencies
        }
        return vars(self) | {"latencies": shares, "cpu": vars(self.cpu), "summary": self.summary()}


def run(*, quick: bool) -> tuple[Result, Figure]:
    rows, new, pairs = (600, 100, 2) if quick else (10_000, 1000, 3)
    with connected_stack(_TENANT, "microservice") as (stack, folder):
        folders = [folder, *(connect(stack, _TENANT, "microservice", f"bench-{n}") for n in range(1, _CONNECTED))]
        throttle = stack.settings.rewrap_per_second
        asked = [listener for one in folders for listener in listeners(stack, one, encrypts=True)]
        estate = _Estate(stack, rows)
        with asking(asked, _RATE, _CONNECTIONS, stack.folder / "answers") as seen:
            rotations = _Rotations(stack, seen)
            time.sleep(_WARM_SECONDS)
            quiet = min(rows / throttle, _MOST_QUIET_SECONDS)
            windows = list(rotations.alternating(pairs, quiet))
            rotations.remove_limit()
            windows.append(rotations.rotate(_TENANT, "without a limit", tenant_key=True))
            left = estate.outdated()
            estate.assert_unchanged()
            estate.make(_OTHER, new)
            windows.append(rotations.rotate(_OTHER, "new versions", tenant_key=False))
            rotations.close()
        estate.close()
        processes = stack.settings.crypto_processes or os.cpu_count() or 1
        half = stack.settings.crypto_key_cache_seconds / 2
    figures = _Figures(windows, rows)
    protocol = _PROTOCOL.format(
        rows=rows,
        connected=_CONNECTED,
        rate=_RATE,
        connections=_CONNECTIONS,
        pairs=pairs,
        quiet=quiet,
        throttle=throttle,
        new=new,
        cores=os.cpu_count(),
        sample=_SAMPLE,
    )
    longest = max(window.seconds for window in figures.rotated)
    # Each process caches each key twice, as the active one and by its version, and unwraps both again after half of the
    # cache time; the rotation itself checks L2 once. If each batch invalidated a key, there would be hundreds of
    # unwraps.
    most_unwraps = 2 * processes * _CONNECTED * (int(longest / half) + 1) + 1
    checks = [
        Check("p99 of the crypto service with a rotation, over p99 without", figures.ratio, _MOST_RATIO, "times"),
        Check(f"{rows:,} service keys re-wrapped", round(longest, 1), round(_MOST_LATE * rows / throttle, 1), "s"),
        Check("service keys left with an older tenant key", left, 0, ""),
        Check("requests not served", sum(window.not_served for window in windows), 0, ""),
        Check(
            "service keys unwrapped by the crypto service during a rotation",
            max(window.unwraps for window in figures.rotated),
            most_unwraps,
            "",
        ),
    ]
    result = Result(
        name="rotation",
        title=f"A new tenant key for {rows:,} service keys",
        quick=quick,
        protocol=protocol,
        checks=checks,
        summary=figures.summary(new) | {"service keys made, for the benchmark (s)": estate.took},
        samples={f"{place} {window.name}": window.sampled() for place, window in enumerate(windows, 1)},
    )
    return result, _plot(windows, figures.ratio)


class _Estate:
    """The tenant's service keys, and an unwrapped sample of them."""

    def __init__(self, stack: Stack, rows: int) -> None:
        self._stack = stack
        self._parts = wiring.build(stack.settings)
        self.took = 0.0
        self._sample = self.make(_TENANT, rows - _CONNECTED)[:: max(1, rows // _SAMPLE)]
        with Opener(stack.settings) as opener:
            self._before = [opener.open(_TENANT, _REGION, name, 1) for name in self._sample]

    def make(self, tenant_id: str, number: int) -> list[str]:
        if tenant_id != _TENANT:
            self._stack.openkcm("enable", tenant_id, "--organization", "Other Corp", "--region", _REGION, "--wait")
        names = [f"service-{place:05}" for place in range(number)]
        began = time.monotonic()
        make_service_keys(self._parts, tenant_id, _REGION, names)
        self.took = round(self.took + time.monotonic() - began, 1)
        print(f"  {number} service keys of {tenant_id} made", flush=True)
        return names

    def outdated(self) -> int:
        with self._parts.database.tenant_tx(_TENANT) as tx:
            return len(tx.rotations.outdated(limit=100_000))

    def assert_unchanged(self) -> None:
        with Opener(self._stack.settings) as opener:
            now = [opener.open(_TENANT, _REGION, name, 1) for name in self._sample]
        assert now == self._before, "an unwrapped service key has changed"

    def close(self) -> None:
        self._parts.database.close()


class _Rotations:
    """Requests rotations and records the responses of the crypto service and the work of the servers."""

    def __init__(self, stack: Stack, seen: Steady) -> None:
        self._stack = stack
        self._seen = seen
        self._database = stack.database(Role.OPERATOR)
        self._pids = stack.pids()
        self._audit_log = next(stack.settings.state_dir.rglob("audit.log"))

    def close(self) -> None:
        self._database.close()

    def alternating(self, pairs: int, seconds: float) -> Iterator[Window]:
        for _ in range(pairs):
            yield self._watched("without", _TENANT, lambda _now, passed: passed >= seconds)
            yield self.rotate(_TENANT, "with", tenant_key=True)

    def rotate(self, tenant_id: str, name: str, *, tenant_key: bool) -> Window:
        """Rotate the tenant key or create new service key versions; return the window of work on service keys."""
        before = self._last(tenant_id)
        number = 1 if before is None else before.number + 1

        def begun() -> bool:
            now = self._last(tenant_id)
            return now is not None and now.number == number and now.stage is not RotationPhase.PLAN and wanted(now)

        def wanted(now: RotationRow) -> bool:
            return not tenant_key or now.stage is RotationPhase.REWRAP

        def over(now: RotationRow | None, _passed: float) -> bool:
            # The rotation's state changes later: its last steps wait for readers of old wraps.
            return now is not None and (0 < now.total == now.done if tenant_key else now.state != "running")

        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            rotating = pool.submit(asyncio.run, self._ask(tenant_id, tenant_key=tenant_key))
            while not begun() and not rotating.done():
                time.sleep(_POLL_SECONDS / 4)
            window = self._watched(name, tenant_id, over)
            rotating.result()
            window.whole_seconds = round(time.monotonic() - began, 2)
        return window

    def remove_limit(self) -> None:
        """Start a new worker that re-wraps without a limit."""
        with (self._stack.folder / "openkcm.toml").open("a", encoding="utf-8") as settings:
            settings.write("rewrap_per_second = 0\n")
        former = self._pids["worker"]
        os.kill(former, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._pids.get("worker", former) == former:
            if time.monotonic() > deadline:
                raise TimeoutError("no new worker")
            time.sleep(_POLL_SECONDS)
            self._pids = self._stack.pids()

    async def _ask(self, tenant_id: str, *, tenant_key: bool) -> None:
        settings = self._stack.settings
        gateway = WorkflowClient(
            await connect_client(settings.temporal_address), settings.provisioning_slo_seconds, _PATIENCE_SECONDS
        )
        services = RotationScope.NONE if tenant_key else RotationScope.ALL
        request = RotateRequest(request_id=uuid.uuid4().hex, services=services, tenant_key=tenant_key)
        await gateway.rotate_keys(tenant_id, request)

    def _watched(self, name: str, tenant_id: str, over: Callable[[RotationRow | None, float], bool]) -> Window:
        """Poll the rotation in all windows, so that polling affects all of them alike."""
        self._seen.new()
        audited, before, began = self._audit_log.stat().st_size, read_cpu(self._pids), time.monotonic()
        progress: list[tuple[float, int]] = []
        while not over(now := self._last(tenant_id), time.monotonic() - began):
            progress.append((round(time.monotonic() - began, 2), 0 if now is None else now.done))
            if time.monotonic() > began + _PATIENCE_SECONDS:
                raise TimeoutError(f"{name}: not over after {_PATIENCE_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        seconds, cpu = time.monotonic() - began, before.until(read_cpu(self._pids))
        requests = requests_between(self._audit_log, audited, self._audit_log.stat().st_size, [tenant_id])
        latencies, not_served = _latencies([a for a in self._seen.new() if began <= a.sent <= began + seconds])
        progress.append((round(seconds, 2), 0 if now is None else now.done))
        window = Window(name, round(seconds, 2), latencies, not_served, cpu, requests, progress)
        print(f"  {name}: {seconds:.1f} s, {window.summary()}", flush=True)
        return window

    def _last(self, tenant_id: str) -> RotationRow | None:
        with self._database.tenant_tx(tenant_id) as tx:
            return next(iter(tx.rotations.all(1)), None)


def _latencies(answers: Sequence[Answered]) -> tuple[dict[str, list[float]], int]:
    found: dict[str, list[float]] = {"https": [], "kmip": []}
    for answer in answers:
        found[answer.listener].append(round(1000 * (answer.at - answer.sent), 3))
    return found, sum(answer.outcome != "ok" for answer in answers)


class _Figures:
    """Figures of the rotations, from all windows."""

    def __init__(self, windows: Sequence[Window], rows: int) -> None:
        self._rows = rows
        self.quiet = [window for window in windows if window.name == "without"]
        self.rotated = [window for window in windows if window.name == "with"]
        self._unlimited, self._new = windows[-2:]
        self.ratios = [after.at(99) / before.at(99) for before, after in zip(self.quiet, self.rotated, strict=True)]
        self.ratio = round(statistics.median(self.ratios), 3)

    def summary(self, new: int) -> dict[str, Any]:
        p99: dict[str, list[str]] = {window.name: [] for window in (*self.quiet, *self.rotated)}
        for window in (*self.quiet, *self.rotated):
            p99[window.name].append(f"{window.at(99):.2f}")
        return {
            "p99 (ms)": {name: " ".join(values) for name, values in p99.items()},
            "p99 by listener (ms)": {
                f"{listener} {name}": round(statistics.median(window.at(99, listener) for window in windows), 2)
                for listener in ("https", "kmip")
                for name, windows in (("without", self.quiet), ("with", self.rotated))
            },
            "p99 with over without, pair by pair": " ".join(f"{ratio:.2f}" for ratio in self.ratios),
            "p99 without, the greatest over the least": round(
                max(window.at(99) for window in self.quiet) / min(window.at(99) for window in self.quiet), 2
            ),
            "seconds": {window.name: window.seconds for window in (*self.rotated[:1], self._unlimited)},
            "seconds of the whole rotation": [window.whole_seconds for window in self.rotated],
            "service keys per second without a limit": round(self._rows / self._unlimited.seconds),
            "p99 without a limit (ms)": round(self._unlimited.at(99), 2),
            "requests at the key server for a service key": self._requests(),
            "CPU seconds for 1,000 service keys": self._cpu(),
            f"new versions of {new:,} service keys": {
                "seconds until they are in use": self._new.whole_seconds,
                "p99 meanwhile (ms)": round(self._new.at(99), 2),
            },
            "other load, share of all cores": max(w.cpu.others for w in (*self.quiet, *self.rotated)),
        }

    def _requests(self) -> dict[str, float]:
        """Return requests for a row by kind, without those that the load makes at any time."""
        seconds = sum(window.seconds for window in self.quiet)
        idle = sum((window.requests for window in self.quiet), Counter[str]())
        rows = self._rows * len(self.rotated)
        busy = sum((window.requests for window in self.rotated), Counter[str]())
        rotated = sum(window.seconds for window in self.rotated)
        found = {kind: round((times - idle[kind] * rotated / seconds) / rows, 3) for kind, times in busy.items()}
        return {kind: times for kind, times in sorted(found.items()) if times >= 0.005}

    def _cpu(self) -> dict[str, float]:
        """Return CPU seconds of each component, without those for the load."""
        found = {}
        for name in self.rotated[0].cpu.seconds:
            idle = sum(window.cpu.seconds[name] for window in self.quiet) / sum(w.cpu.elapsed for w in self.quiet)
            busy = sum(window.cpu.seconds[name] - idle * window.cpu.elapsed for window in self.rotated)
            found[name] = round(1000 * busy / (self._rows * len(self.rotated)), 2)
        return {name: seconds for name, seconds in found.items() if seconds >= 0.05}


def _plot(windows: Sequence[Window], ratio: float) -> Figure:
    figure, axes = report.canvas()
    colours = {
        "without": report.BLUE,
        "with": report.ORANGE,
        "without a limit": report.RED,
        "new versions": report.GREY,
    }
    labelled: set[str] = set()
    for window in windows:
        latencies = sorted(latency for one in window.latencies.values() for latency in one)
        shares = [100 * (place + 1) / len(latencies) for place in range(len(latencies))]
        label = None if window.name in labelled else window.name
        axes.plot(latencies, shares, color=colours[window.name], label=label)
        labelled.add(window.name)
    axes.axhline(99, color=report.GREY, ls="--", lw=1)
    axes.set(title=f"responses of the crypto service: p99 with a rotation is {ratio:g} times p99 without")
    axes.set(xlabel="milliseconds", ylabel="% answered", xscale="log", ylim=(90, 100.2))
    axes.legend(loc="lower right")
    return figure
