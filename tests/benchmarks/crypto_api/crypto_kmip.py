"""KMIP Get: the crypto service beside PyKMIP's server, over mTLS, in one run."""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import choice, number
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import encode
from tests.benchmarks import report
from tests.benchmarks.crypto_api.bare_tls import bare_server
from tests.benchmarks.crypto_api.pykmip_peer import pykmip_server
from tests.benchmarks.harness.closed_loop import WARM_UP, Load, Target, ask, ask_connecting, kept, median_rounds, one
from tests.benchmarks.harness.kmip_messages import activate, create, found_identifier, get, succeeded
from tests.benchmarks.harness.processes import read_cpu, two_loops_over_one
from tests.benchmarks.harness.service_fixture import connected_stack
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result
from tests.crypto_service.kmip.messages import batch_item, message
from tests.crypto_service.kmip.scene import VALUE, a_name, attribute, creation, custom

_TENANT = "bench-corp-1"
_ROUNDS = 5
_SECONDS = 4.0
_CASES: dict[str, tuple[Callable[[Target, float], Load], float]] = {
    "1 connection": (kept(1), 20.0),
    "16 connections": (kept(16), 40.0),
}
_SCALED = "16 connections"
_CONNECTING = "connect per operation"
_BARE_OVER_OURS = 1 / 0.9
_OBJECTS = 5_000
_BATCH = 100
_SEARCH_MILLISECONDS = 10.0
_PROTOCOL = (
    "Each server has one active AES-256 key, created over KMIP 1.2, and receives Get requests for it over mTLS (ours "
    "TLS 1.3, PyKMIP 1.2, its maximum). For each case the sides take turns, {rounds} rounds of {seconds:g} s; the "
    "median round counts, and one more round of ours counts CPU time; same generator "
    "(tests/benchmarks/harness/generator.c, one thread for each processor), same machine. Ours runs "
    "{processes} processes and writes its write-ahead log before each response; PyKMIP is one process with threads and "
    "SQLite, with its defaults. Then a second stack serves from one process. The machine limits the gain from more "
    "processes, as the last line of the table shows: two counting loops at once, compared with one alone; the "
    "generator uses the same processors. With one connection per operation a third side takes turns: a process on the "
    "same event loop that makes the same kind of handshake and responds without any work. At last the service gets "
    "{objects} objects, and one connection repeats a Locate for each kind of condition, which returns ten of them."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds, seconds = (1, 1.0) if quick else (_ROUNDS, _SECONDS)
    summary: dict[str, Any] = {}
    samples: dict[str, list[float]] = {}
    checks = []
    with (
        connected_stack(_TENANT, "mongodb") as (stack, folder),
        tempfile.TemporaryDirectory(prefix="openkcm-pykmip-") as place,
        pykmip_server(Path(place)) as peer_port,
    ):
        sides = {"ours": kmip_target(stack, folder), "PyKMIP": _target(peer_port, Path(place))}
        for case, (measure, least) in _CASES.items():
            middle = median_rounds(measure, sides, rounds, seconds)
            for side, load in middle.items():
                summary[f"{side}, {case}"] = load.summary()
                step = max(1, len(load.latencies) // 500)
                samples[f"{side}, {case}"] = [round(ms, 3) for ms in load.latencies[::step]]
            ratio = middle["ours"].rate / middle["PyKMIP"].rate
            summary[f"times PyKMIP, {case}"] = round(ratio, 1)
            checks.append(Check(f"PyKMIP's Gets per second over ours, {case}", round(1 / ratio, 4), 1 / least, ""))
            summary[f"CPU (µs a Get), {case}"] = _cpu_per_get(stack, sides["ours"], measure, seconds)
        with (
            tempfile.TemporaryDirectory(prefix="openkcm-bare-") as floor,
            bare_server(Path(floor), b"any request") as bare,
        ):
            middle = median_rounds(ask_connecting, {**sides, "bare TLS server": bare}, rounds, seconds)
        summary |= {f"{side}, {_CONNECTING}": load.summary() for side, load in middle.items()}
        summary[f"times PyKMIP, {_CONNECTING}"] = round(middle["ours"].rate / middle["PyKMIP"].rate, 1)
        over_ours = middle["bare TLS server"].rate / middle["ours"].rate
        checks.append(
            Check("the bare server's connections per second over ours", round(over_ours, 3), _BARE_OVER_OURS, "")
        )
        objects = _BATCH if quick else _OBJECTS
        searches = {kind: load.summary() for kind, load in _searches(stack, folder, objects, seconds)}
        summary |= {f"Locate by {kind} among {objects} objects (ms)": found for kind, found in searches.items()}
        slowest = max(found["p50"] for found in searches.values())
        checks.append(Check(f"Locate among {objects} objects, p50", slowest, _SEARCH_MILLISECONDS, "ms"))
    with connected_stack(_TENANT, "mongodb", crypto_processes=1) as (stack, folder):
        measure = _CASES[_SCALED][0]
        alone = median_rounds(measure, {"ours": kmip_target(stack, folder)}, rounds, seconds)["ours"]
    both = summary[f"ours, {_SCALED}"]["requests/s"]
    summary[f"ours in one process, {_SCALED}"] = alone.summary()
    summary[f"{os.cpu_count()} processes over one, {_SCALED}"] = round(both / alone.rate, 2)
    summary["two bare loops over one"] = round(two_loops_over_one(), 2)
    result = Result(
        name="crypto_kmip",
        title="KMIP Get: the crypto service and PyKMIP",
        quick=quick,
        protocol=_PROTOCOL.format(rounds=rounds, seconds=seconds, processes=os.cpu_count(), objects=objects),
        checks=checks,
        summary=summary,
        samples=samples,
    )
    return result, _plot(summary)


def _cpu_per_get(
    stack: Stack, ours: Target, measure: Callable[[Target, float], Load], seconds: float
) -> dict[str, float]:
    """Return the CPU time for each Get of the crypto service, its log shipper included, and of PostgreSQL."""
    pids = {name: pid for name, pid in stack.pids().items() if name in {"crypto", "postgres"}}
    before = read_cpu(pids)
    load = measure(ours, seconds)
    used = before.until(read_cpu(pids)).seconds
    answered = len(load.latencies) * (1 + WARM_UP)
    return {name: round(1e6 * spent / answered, 1) for name, spent in used.items()}


def _searches(stack: Stack, folder: Path, objects: int, seconds: float) -> Iterator[tuple[str, Load]]:
    """Create objects, and measure a Locate for each kind of condition."""
    target = kmip_target(stack, folder)
    of_half = [batch_item(*creation(custom("x-Owner", str(number % 2)))) for number in range(_BATCH)]
    for _ in range(objects // _BATCH):
        one(replace(target, request=encode(message(*of_half))))
    kinds = {
        "name": a_name("missing"),
        "custom attribute": custom("x-Owner", "1"),
        "state": attribute("State", choice(VALUE, 1)),
        "object type": attribute("Object Type", choice(VALUE, 2)),
        "length": attribute("Cryptographic Length", number(VALUE, 256)),
    }
    for kind, condition in kinds.items():
        request = encode(message(batch_item(Operation.LOCATE, number(Tag.MAXIMUM_ITEMS, 10), condition)))
        yield kind, ask(replace(target, request=request), 1, seconds)


def kmip_target(stack: Stack, folder: Path) -> Target:
    return _target(stack.settings.crypto_kmip_port, folder)


def _target(port: int, folder: Path) -> Target:
    """Create and activate a key, and return the target with a Get request for it."""
    ca, client = folder / "ca.pem", (folder / "client.pem", folder / "client.key")
    target = Target(port, create(), "ttlv", ca, client)
    made = one(target)
    if not succeeded(made):
        raise RuntimeError(f"cannot create a key: {made[:300]!r}")
    key = found_identifier(made)
    if not succeeded(one(replace(target, request=activate(key)))):
        raise RuntimeError("cannot activate the key")
    return replace(target, request=get(key))


def _plot(summary: dict[str, Any]) -> Figure:
    figure, axes = report.canvas()
    cases = (*_CASES, _CONNECTING)
    places = np.arange(len(cases))
    for shift, side, colour in ((-0.2, "ours", report.BLUE), (0.2, "PyKMIP", report.ORANGE)):
        rates = [summary[f"{side}, {case}"]["requests/s"] for case in cases]
        bars = axes.bar(places + shift, rates, 0.38, color=colour, label=side)
        axes.bar_label(bars, fmt="{:,.0f}")
    axes.set_yscale("log")
    axes.set_xticks(places, cases)
    axes.set(title="KMIP Get over mTLS", ylabel="requests per second")
    axes.legend(loc="upper right")
    return figure
