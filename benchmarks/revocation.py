"""How soon is a root key that its customer took away worth nothing, and how soon worth something again?"""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.connected import connected_stack, fronts
from benchmarks.outage import without
from benchmarks.report import Check, Result, percentile, spread
from benchmarks.stack import Stack
from benchmarks.steady import Answered, Front, Steady, ask_fast, asking
from config.secrets import Role
from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import State
from database.connection.database import Database
from tests.stories.holders import Holder, Holders

PROVIDERS = ("aws-kms", "pkcs11", "openbao")
TENANT = "bench-holder-1"
_SERVICE = "bench"
_SERVERS = ("worker", "temporal", "postgres")
_RATE, _CONNECTIONS = 200.0, 4
_LIMIT_SECONDS = 5.0
_QUIET_SECONDS = 3.0
"""After the last success, before it is called the last."""
_STEADY_SECONDS = (2.0, 5.0)
"""How long both fronts serve before the next revocation: by chance, so that each run meets the watch elsewhere."""
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.01
_PROTOCOL = (
    "One stack, one tenant, one service. Its root key is changed to one held in AWS KMS (MiniStack), then in a token "
    "(SoftHSM2, PKCS#11), then in the customer's own OpenBao. Throughout, a process of its own asks {rate:g} times a "
    "second over {connections} kept connections to each front, each with a clock of its own that waits for nobody: "
    "half POST /v1/decrypt, half KMIP Get and Decrypt in turn. {runs} times for each provider the customer disables "
    "the key, waits until nothing was served for {quiet:g} s and the tenant is locked, and enables it again; then "
    "both fronts serve for {least:g} to {most:g} s, by chance. Times run from the return of the customer's own call "
    "(for the token: from the end of the process that makes it) to the last success, to the tenant's row being "
    "`locked`, which is looked at every {poll:g} ms, and to the first success; a success counts when its answer has "
    "been read, and below zero it was before the call returned. After the last revocation of each provider {tries:,} "
    "requests are made as fast as they are answered. Then, once for each provider, worker, Temporal and PostgreSQL "
    "are killed right before the key is taken away, and what is open ends with its cache time, here {cache:g} s. "
    "Requests to KMS and OpenBao pass a proxy in Python, which adds some milliseconds."
)


@dataclass
class Series:
    """Of one provider: seconds, one for each run; by front where there are two."""

    last: dict[str, list[float]] = field(default_factory=lambda: {"https": [], "kmip": []})
    first: dict[str, list[float]] = field(default_factory=lambda: {"https": [], "kmip": []})
    locked: list[float] = field(default_factory=list)
    taking: list[float] = field(default_factory=list)
    """How long the customer's call took."""
    rate: list[float] = field(default_factory=list)
    """Answers a second while both fronts served."""
    unserved: int = 0
    """Requests that were not served though the key was there."""
    tried: dict[str, int] = field(default_factory=dict)
    cut_off: dict[str, float] = field(default_factory=dict)
    """The last success with three servers down."""
    dead_for: float = 0.0
    """How long they had been when the key was taken away."""


def run(*, quick: bool) -> tuple[Result, Figure]:
    runs, tries, cache = (2, 400, 6.0) if quick else (20, 10_000, 60.0)
    with tempfile.TemporaryDirectory(prefix="openkcm-holders-") as place, _holders(Path(place)) as holders:
        settings = {name: str(value) for name, value in holders.settings().items()}
        with connected_stack(TENANT, "microservice", crypto_cache_seconds=cache, **settings) as (stack, folder):
            customer = _Customer(stack, fronts(stack, folder), Path(place))
            series = {provider: customer.measure(holders.hold(provider), runs, tries) for provider in PROVIDERS}
            customer.close()
    protocol = _PROTOCOL.format(
        rate=_RATE,
        connections=_CONNECTIONS,
        runs=runs,
        quiet=_QUIET_SECONDS,
        least=_STEADY_SECONDS[0],
        most=_STEADY_SECONDS[1],
        poll=1000 * _POLL_SECONDS,
        tries=tries,
        cache=cache,
    )
    result = Result(
        name="revocation",
        title="A customer takes the root key away, and gives it back",
        quick=quick,
        protocol=protocol,
        checks=list(_checks(series, tries, cache)),
        summary=_summary(series, tries),
        samples={provider: vars(one) for provider, one in series.items()},
    )
    return result, _plot(series)


class _Customer:
    """Holds the key and takes the times."""

    def __init__(self, stack: Stack, fronts: Sequence[Front], folder: Path) -> None:
        self._stack = stack
        self._fronts = fronts
        self._folder = folder
        self._database: Database = stack.database(Role.OPERATOR)

    def close(self) -> None:
        self._database.close()

    def measure(self, holder: Holder, runs: int, tries: int) -> Series:
        """Change to this root key and do with it all that the protocol says."""
        provider, series = holder.place.provider, Series()
        self._stack.openkcm("root-key", "change", TENANT, *holder.words(self._folder), timeout=_PATIENCE_SECONDS)
        with asking(self._fronts, _RATE, _CONNECTIONS, self._folder / f"{provider}.answers") as seen:
            for number in range(1, runs + 1):
                self._serve(seen, series)
                self._revoke(holder, seen, series)
                if number == runs:
                    series.tried = self._try_hard(provider, tries)
                self._restore(holder, seen, series)
                last = max(series.last[front][-1] for front in series.last)
                print(f"  {provider} {number}: last success {last:.2f} s, locked {series.locked[-1]:.2f} s", flush=True)
            self._serve(seen, series)
            self._cut_off(holder, seen, series)
        return series

    def _serve(self, seen: Steady, series: Series) -> None:
        """Let both fronts serve for a while."""
        seconds = random.uniform(*_STEADY_SECONDS)  # noqa: S311 - spreads the runs, guards nothing
        seen.new()
        time.sleep(seconds)
        answers = seen.new()
        found = Counter(f"{answer.front} {answer.outcome}" for answer in answers)
        assert found.keys() >= {"https ok", "kmip ok"}, f"a front did not serve while the root key was there: {found}"
        series.unserved += len(answers) - found["https ok"] - found["kmip ok"]
        series.rate.append(round(len(answers) / seconds, 1))

    def _revoke(self, holder: Holder, seen: Steady, series: Series) -> None:
        began = time.monotonic()
        holder.take_away()
        returned = time.monotonic()
        series.taking.append(round(returned - began, 4))
        self._wait(lambda: self._state() is State.LOCKED, "locked")
        series.locked.append(round(time.monotonic() - returned, 4))
        for front, at in _last_successes(seen, began, returned, _LIMIT_SECONDS * 4).items():
            series.last[front].append(round(at - returned, 4))

    def _restore(self, holder: Holder, seen: Steady, series: Series) -> None:
        seen.new()
        holder.give_back()
        returned = time.monotonic()
        answers: list[Answered] = []

        def served() -> bool:
            answers.extend(answer for answer in seen.new() if answer.outcome == "ok")
            return {answer.front for answer in answers} == {front.name for front in self._fronts}

        self._wait(served, "served again")
        for front in self._fronts:
            first = min(answer.at for answer in answers if answer.front == front.name)
            series.first[front.name].append(round(first - returned, 4))
        # Every process of the crypto service hears of it, and opens what it needs.
        self._wait(lambda: _all_served(seen), "served everywhere")

    def _try_hard(self, provider: str, tries: int) -> dict[str, int]:
        answers = ask_fast(self._fronts, tries // 2, _CONNECTIONS, self._folder / f"{provider}.tries")
        assert len(answers) == tries, f"{len(answers)} answers to {tries} tries"
        return dict(Counter(f"{answer.front} {answer.outcome}" for answer in answers))

    def _cut_off(self, holder: Holder, seen: Steady, series: Series) -> None:
        """Take the key away where nobody is left who could hear of it but the crypto service itself."""
        seen.new()
        with without(self._stack, _SERVERS) as killed:
            began = time.monotonic()
            holder.take_away()
            returned = time.monotonic()
            found = _last_successes(seen, began, returned, 2 * self._stack.settings.crypto_cache_seconds + 20)
            series.cut_off = {front: round(at - returned, 3) for front, at in found.items()}
            series.dead_for = round(returned - killed, 3)
            print(f"  {holder.place.provider} cut off: last success {max(series.cut_off.values()):.1f} s", flush=True)
            holder.give_back()
        self._wait(lambda: _all_served(seen), "served after the outage", 3 * _PATIENCE_SECONDS)
        self._wait(lambda: self._state() is State.ACTIVE, "active after the outage", 3 * _PATIENCE_SECONDS)

    def _state(self) -> State | None:
        try:
            with self._database.tenant_tx(TENANT) as tx:
                row = tx.tenants.get()
        except DatabaseUnavailable:
            return None
        return None if row is None else row.state

    @staticmethod
    def _wait(true: Callable[[], bool], what: str, seconds: float = _PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {what} after {seconds:g} s")
            time.sleep(_POLL_SECONDS)


def _last_successes(seen: Steady, began: float, otherwise: float, patience: float) -> dict[str, float]:
    """Wait until there was none for a while, and return when each front's last was."""
    last = {"https": began, "kmip": began}
    newest = began
    deadline = otherwise + patience
    while newest < max(otherwise, *last.values()) + _QUIET_SECONDS:
        for answer in seen.new():
            newest = max(newest, answer.at)
            if answer.outcome == "ok":
                last[answer.front] = max(last[answer.front], answer.at)
        if time.monotonic() > deadline:
            raise TimeoutError(f"still served {patience:g} s after the root key was taken away")
        time.sleep(_POLL_SECONDS)
    return last


def _all_served(seen: Steady) -> bool:
    """Whether nothing was refused for a second."""
    seen.new()
    time.sleep(1.0)
    return {answer.outcome for answer in seen.new()} == {"ok"}


@contextmanager
def _holders(folder: Path) -> Iterator[Holders]:
    with Holders(folder / "holders").until_closed() as holders:
        yield holders


def _checks(series: dict[str, Series], tries: int, cache: float) -> Iterator[Check]:
    for provider, one in series.items():
        for front, times in one.last.items():
            measured = round(percentile(times, 95), 2)
            yield Check(f"{provider}: p95 to the last success over {front}", measured, _LIMIT_SECONDS, "s")
        successes = sum(times for what, times in one.tried.items() if what.endswith(" ok"))
        yield Check(f"{provider}: successes in {tries:,} tries after it", successes, 0, "")
        measured = max(one.cut_off.values())
        yield Check(f"{provider}: last success without worker, Temporal and PostgreSQL", measured, cache, "s")


def _summary(series: dict[str, Series], tries: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for provider, one in series.items():
        told |= {f"{provider}, last success over {front} (s)": spread(times) for front, times in one.last.items()}
        told[f"{provider}, tenant locked (s)"] = spread(one.locked)
        told |= {f"{provider}, first success over {front} (s)": spread(times) for front, times in one.first.items()}
        told[f"{provider}, the customer's call (s)"] = spread(one.taking)
        told[f"{provider}, {tries:,} tries while it is away"] = one.tried
        told[f"{provider}, cut off, last success (s)"] = one.cut_off | {"servers dead before": one.dead_for}
        told[f"{provider}, while it serves"] = {"answers/s": spread(one.rate)["p50"], "not served": one.unserved}
    return told


def _plot(series: dict[str, Series]) -> Figure:
    figure, axes = report.canvas(width=11, height=5.5)
    rows: list[str] = []
    for provider, one in series.items():
        for what, times, colour in (
            ("last success, HTTPS", one.last["https"], report.BLUE),
            ("last success, KMIP", one.last["kmip"], report.ORANGE),
            ("tenant locked", one.locked, report.GREY),
            ("first success, HTTPS", one.first["https"], report.GREEN),
            ("first success, KMIP", one.first["kmip"], report.GREEN),
        ):
            place = len(rows)
            rows.append(f"{provider}: {what}")
            axes.scatter(times, [place] * len(times), color=colour, alpha=0.6, s=20)
            axes.scatter([percentile(times, 95)], [place], color=colour, marker="|", s=300, lw=3)
    axes.axvline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit for p95 (bars), {_LIMIT_SECONDS:g} s")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set(title="after the customer's call has returned", xlabel="seconds")
    axes.legend(loc="lower right")
    return figure
