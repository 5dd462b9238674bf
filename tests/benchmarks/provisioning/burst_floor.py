"""Time until the last of many tenants is ready, beside the minimum for the same calls and the same workflows."""

import statistics
import time
from dataclasses import dataclass

from matplotlib.figure import Figure

from config.secrets import Role
from core.tenants.lifecycle import State
from database.platform.operators import Operations
from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.processes import CpuSpan, read_cpu
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.provisioning.baseline import record
from tests.benchmarks.provisioning.empty_workflow import EmptyWorkflow
from tests.benchmarks.report import Check, Result

_LIMIT_RATIO = 1.25
_ROUNDS = 5
_WARM_UPS = 20
_PATIENCE_SECONDS = 900
_POLL_SECONDS = 0.25
_PAUSE_SECONDS = 3
_SETTLE_SECONDS = 60
_IDLE_CORES = 0.3
_PROTOCOL = (
    "{rounds} rounds of two bursts each, in turns one or the other first. Each waits until the components use less "
    "than {idle} of a core in {pause} seconds, but at most {settle} seconds: (a) {tenants} signed events are posted to "
    "the marketplace API at once, until the database, read four times a second, has all as active; (b) {tenants} of "
    "the product's workflows are started at once in a separate worker process. Their activities do nothing, except "
    "one: it sends the same requests to OpenBao and the same messages to PostgreSQL, without the product's code (the "
    "messages come from PostgreSQL's log of one real tenant). It has as many threads as the product's worker, each "
    "with its connections. Before, {warm} tenants of each kind are provisioned unmeasured. The ratio is the median of "
    "(a) over (b) in the rounds. All processes share the cores."
)


@dataclass(frozen=True)
class _Round:
    """Seconds of both bursts, and the CPU time of the components in each."""

    product: float
    floor: float
    product_cpu: CpuSpan
    floor_cpu: CpuSpan


class _Bursts:
    def __init__(self, stack: Stack, marketplace: Marketplace, empty: EmptyWorkflow) -> None:
        self._marketplace = marketplace
        self._empty = empty
        self._pids = stack.pids() | {"bare worker": empty.pid}
        self._database = stack.database(Role.DASHBOARD)
        self._operations = Operations(self._database, stack.settings.provisioning_slo_seconds)

    def close(self) -> None:
        self._database.close()

    def product(self, name: str, number: int) -> tuple[float, CpuSpan]:
        """Enable tenants at once; return the seconds until the last is active."""
        expected = self._active() + number
        self._settle()
        before = read_cpu(self._pids)
        first = self._marketplace.enable_all(_tenants(name, number), at_once=number)
        deadline = first + _PATIENCE_SECONDS
        while self._active() < expected:
            if time.time() > deadline:
                raise TimeoutError(f"the tenants {name} are not all active after {_PATIENCE_SECONDS} s")
            time.sleep(_POLL_SECONDS)
        seconds = time.time() - first
        cpu = before.until(read_cpu(self._pids))
        return seconds, cpu

    def floor(self, name: str, number: int) -> tuple[float, CpuSpan]:
        """Run as many bare workflows at once; return the seconds until the last one has activated its tenant."""
        self._settle()
        before = read_cpu(self._pids)
        seconds = self._empty.run_all(_tenants(name, number), _PATIENCE_SECONDS)
        return seconds, before.until(read_cpu(self._pids))

    def round(self, number: int, tenants: int) -> _Round:
        # In turns, because each burst leaves the servers with more rows and keys.
        if number % 2 == 0:
            product, product_cpu = self.product(f"product-{number}", tenants)
            floor, floor_cpu = self.floor(f"floor-{number}", tenants)
        else:
            floor, floor_cpu = self.floor(f"floor-{number}", tenants)
            product, product_cpu = self.product(f"product-{number}", tenants)
        return _Round(product, floor, product_cpu, floor_cpu)

    def _settle(self) -> None:
        """Wait until work that follows a burst, such as the signing of audit heads, has ended."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        used = float("inf")
        while used > _IDLE_CORES and time.monotonic() < deadline:
            before = read_cpu(self._pids)
            time.sleep(_PAUSE_SECONDS)
            span = before.until(read_cpu(self._pids))
            used = sum(span.seconds.values()) / span.elapsed

    def _active(self) -> int:
        return sum(count.tenants for count in self._operations.counts() if count.state is State.ACTIVE)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds, tenants = (2, 30) if quick else (_ROUNDS, 1000)
    with Stack(provisioning_slo_seconds=_PATIENCE_SECONDS) as stack:
        marketplace = Marketplace(stack.settings)
        recording = record(stack, marketplace)
        with EmptyWorkflow(stack.settings, recording) as empty:
            bursts = _Bursts(stack, marketplace, empty)
            bursts.product("warm-product", _WARM_UPS)
            bursts.floor("warm-floor", _WARM_UPS)
            measured = []
            for number in range(1, rounds + 1):
                measured.append(bursts.round(number, tenants))
                print("  {}: {:.1f} s, floor {:.1f} s".format(number, *_seconds(measured[-1])), flush=True)
            bursts.close()
    ratios = [each.product / each.floor for each in measured]
    ratio = round(statistics.median(ratios), 3)
    summary = {
        "tenants": tenants,
        "product (s)": [round(each.product, 1) for each in measured],
        "floor (s)": [round(each.floor, 1) for each in measured],
        "ratios": [round(each, 3) for each in ratios],
        "CPU of the product (ms a tenant)": _mean_cpu([each.product_cpu for each in measured], tenants),
        "CPU of the floor (ms a tenant)": _mean_cpu([each.floor_cpu for each in measured], tenants),
        "share of the CPU used by other programs": max(each.product_cpu.others for each in measured),
    }
    result = Result(
        name="burst_floor",
        title=f"{tenants} tenants enabled at once, beside the bare calls and workflows",
        quick=quick,
        protocol=_PROTOCOL.format(
            rounds=rounds,
            tenants=tenants,
            warm=_WARM_UPS,
            pause=_PAUSE_SECONDS,
            idle=_IDLE_CORES,
            settle=_SETTLE_SECONDS,
        ),
        checks=[Check(f"the last of {tenants} is active, over the floor", ratio, _LIMIT_RATIO, "times")],
        summary=summary,
        samples={
            "product_seconds": [round(each.product, 3) for each in measured],
            "floor_seconds": [round(each.floor, 3) for each in measured],
        },
    )
    return result, _plot(measured, tenants, ratio)


def _tenants(name: str, number: int) -> list[str]:
    return [f"{name}-{n:04}" for n in range(number)]


def _seconds(measured: _Round) -> tuple[float, float]:
    return measured.product, measured.floor


def _mean_cpu(spans: list[CpuSpan], tenants: int) -> dict[str, int]:
    return {
        name: round(1000 * statistics.mean(span.seconds[name] for span in spans) / tenants) for name in spans[0].seconds
    }


def _plot(measured: list[_Round], tenants: int, ratio: float) -> Figure:
    figure, axes = report.canvas()
    rounds = range(1, len(measured) + 1)
    floors = [each.floor for each in measured]
    axes.bar(rounds, floors, color=report.GREY, alpha=0.6, label="floor: bare calls in the same workflows")
    axes.plot(rounds, [each.product for each in measured], "o", color=report.BLUE, label="product")
    axes.plot(
        rounds,
        [_LIMIT_RATIO * floor for floor in floors],
        "_",
        color=report.RED,
        ms=30,
        label=f"limit, {_LIMIT_RATIO} times the floor",
    )
    axes.set(title=f"{tenants} tenants enabled at once: {ratio} times the floor", xlabel="round")
    axes.set(ylabel="seconds until the last is active", xticks=list(rounds))
    axes.set_ylim(0, 1.3 * max(each.product for each in measured))
    axes.legend(loc="upper center", ncols=3, fontsize=9)
    return figure
