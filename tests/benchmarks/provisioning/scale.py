"""Cost of the 2,000th tenant compared with the 20th."""

import statistics
import time
from datetime import UTC, datetime

from matplotlib.figure import Figure

from config.secrets import Role
from core.tenants.lifecycle import State
from database.platform.scheduled import PlatformQueries
from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.processes import folder_size, read_cpu, read_memory
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, spread

_LIMIT_RATIO = 1.25
_AT_ONCE = 8
_WAVE = 40
_PAUSE_SECONDS = 0.5
_PATIENCE_SECONDS = 120
_PROTOCOL = (
    "Tenants {first} to {first_end} are enabled one after another, each half a second after the one before is active; "
    "then the stack is filled in waves of {wave}; then tenants {last} to {last_end} are enabled one after another in "
    "the same way. Memory (proportional set size of each component's processes) and the state folder are read after "
    "each of the two series."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    total, series = (100, 10) if quick else (2000, 20)
    first, last = range(11, 11 + series), range(total - series + 11, total + 11)
    with Stack() as stack:
        marketplace = Marketplace(stack.settings)
        pids = stack.pids()
        for number in range(1, 11):
            _enable(marketplace, number)
        early, early_cpu = _series(marketplace, first, pids)
        memory, size = [read_memory(pids)], [folder_size(stack.settings.state_dir)]
        filling = fill(stack, marketplace, range(first.stop, last.start))
        late, late_cpu = _series(marketplace, last, pids)
        memory.append(read_memory(pids))
        size.append(folder_size(stack.settings.state_dir))
    ratio = statistics.median(late) / statistics.median(early)
    names = (f"tenants {first.start}-{first.stop - 1}", f"tenants {last.start}-{last.stop - 1}")
    summary = {
        f"ready_seconds, {names[0]}": spread(early),
        f"ready_seconds, {names[1]}": spread(late),
        "ratio of medians": round(ratio, 3),
        f"memory at {first.stop - 1} (MiB)": memory[0],
        f"memory at {last.stop - 1} (MiB)": memory[1],
        "state folder (MiB)": {f"at {first.stop - 1}": size[0], f"at {last.stop - 1}": size[1]},
        "filling (tenants per second)": round(sum(wave["tenants"] for wave in filling) / filling[-1]["after"], 1),
        "share of the CPU used by other programs": {names[0]: early_cpu, names[1]: late_cpu},
    }
    result = Result(
        name="scale",
        title=f"Tenant {last.stop - 1} beside tenant {first.stop - 1}",
        quick=quick,
        protocol=_PROTOCOL.format(
            first=first.start, first_end=first.stop - 1, last=last.start, last_end=last.stop - 1, wave=_WAVE
        ),
        checks=[Check("median of the last tenants over that of the first", round(ratio, 3), _LIMIT_RATIO, "times")],
        summary=summary,
        samples={"early_seconds": early, "late_seconds": late, "filling": filling},
    )
    return result, _plot(names, early, late, memory, size)


def tenant(number: int) -> str:
    """Return the id of the tenant with this number."""
    return f"scale-{number:05}"


def _enable(marketplace: Marketplace, number: int) -> float:
    marketplace.enable(tenant(number))
    ready = marketplace.ready_seconds(tenant(number), _PATIENCE_SECONDS)
    time.sleep(_PAUSE_SECONDS)
    return ready


def _series(marketplace: Marketplace, numbers: range, pids: dict[str, int]) -> tuple[list[float], float]:
    """Return the durations and the share of CPU of other programs."""
    before = read_cpu(pids)
    samples = [_enable(marketplace, number) for number in numbers]
    print(f"  tenants {numbers.start} to {numbers.stop - 1}: p50 {statistics.median(samples):.3f} s", flush=True)
    return samples, before.until(read_cpu(pids)).others


def fill(stack: Stack, marketplace: Marketplace, numbers: range) -> list[dict[str, float]]:
    """Enable `numbers` in waves, each after the one before is active; return the time of each wave."""
    database = stack.database(Role.OPERATOR)
    began = time.monotonic()
    waves = []
    for start in range(numbers.start, numbers.stop, _WAVE):
        wave = range(start, min(start + _WAVE, numbers.stop))
        marketplace.enable_all([tenant(number) for number in wave], _AT_ONCE)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            rows = PlatformQueries(database).list_tenants(tenant(wave.start - 1), len(wave))
            if len(rows) == len(wave) and all(row.state is State.ACTIVE for row in rows):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"tenants {wave.start} to {wave.stop - 1} are not all active: {datetime.now(UTC)}")
            time.sleep(0.1)
        waves.append({"tenants": len(wave), "after": round(time.monotonic() - began, 2)})
        if wave.stop % (5 * _WAVE) < _WAVE:
            print(f"  {wave.stop - 1} tenants after {waves[-1]['after']:.0f} s", flush=True)
    database.close()
    return waves


def _plot(
    names: tuple[str, str], early: list[float], late: list[float], memory: list[dict[str, float]], size: list[float]
) -> Figure:
    figure, left = report.canvas(width=11)
    left.remove()
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    limit = statistics.median(early) * _LIMIT_RATIO * 1000
    for place, samples, colour in ((0, early, report.BLUE), (1, late, report.ORANGE)):
        milliseconds = [1000 * sample for sample in samples]
        spots = [place + (n - len(samples) / 2) / (3 * len(samples)) for n in range(len(samples))]
        left.scatter(spots, milliseconds, color=colour, alpha=0.7)
        middle = statistics.median(milliseconds)
        left.hlines(middle, place - 0.3, place + 0.3, color=colour, lw=3, label=f"median {middle:.0f} ms")
    left.axhline(limit, color=report.RED, ls="--", label=f"limit, {_LIMIT_RATIO} times the first median")
    left.set(title="time to ready, one at a time", ylabel="ready_seconds (ms)", xlim=(-0.6, 1.6))
    left.set_xticks((0, 1), names)
    left.set_ylim(bottom=0)
    left.legend(loc="lower center")
    parts = [*memory[0], "state folder"]
    for offset, values, colour, name in zip((-0.2, 0.2), memory, (report.BLUE, report.ORANGE), names, strict=True):
        places = [place + offset for place in range(len(parts))]
        right.bar(places, [*values.values(), size[offset > 0]], 0.4, color=colour, label=f"after {name}")
    right.set(title="memory and disk", ylabel="MiB")
    right.set_xticks(range(len(parts)), parts, rotation=25, ha="right")
    right.legend()
    return figure
