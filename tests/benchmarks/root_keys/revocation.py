"""Time until a revoked root key has effect on all requests, and until a restored one is used again."""

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

from config.secrets import Role
from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import State
from database.connection.database import Database
from tests.benchmarks import report
from tests.benchmarks.harness.open_loop import Answered, Listener, Steady, ask_fast, asking
from tests.benchmarks.harness.service_fixture import connected_stack, listeners
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, percentile, spread
from tests.benchmarks.root_keys.fault_injection import without
from tests.e2e.root_keys.holders import Holder, Holders
from tests.e2e.stack import as_setting

PROVIDERS = ("aws-kms", "pkcs11", "openbao")
TENANT = "bench-holder-1"
_SERVICE = "bench"
_SERVERS = ("worker", "temporal", "postgres")
_RATE, _CONNECTIONS = 200.0, 4
_LIMIT_SECONDS = 5.0
_QUIET_SECONDS = 3.0
"""Time without a success after which the last one is final."""
_STEADY_SECONDS = (2.0, 5.0)
"""How long both listeners serve before the next revocation: random, so that runs meet different monitoring phases."""
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.01
_PROTOCOL = (
    "One stack, one tenant, one service. Its root key is changed to one in AWS KMS (MiniStack), then in a token "
    "(SoftHSM2, PKCS#11), then in the customer's own OpenBao. Throughout, a separate process sends {rate:g} requests "
    "per second over {connections} kept connections to each listener, each with its own schedule in an open loop: half "
    "POST /v1/decrypt, half KMIP Get and Decrypt in turn. {runs} times for each provider the customer disables the "
    "key, waits until there was no success for {quiet:g} s and the tenant is locked, and enables it again; then both "
    "listeners serve for {least:g} to {most:g} s, at random. Times count from the return of the customer's own call "
    "(for the token: from the end of its process) to the last success, to the tenant's row being `locked`, which is "
    "polled every {poll:g} ms, and to the first success. A success counts when its response has been read; it is "
    "negative if it was before the return of the call. After the last revocation of each provider {tries:,} requests "
    "are sent without pauses. Then, once for each provider, worker, Temporal and PostgreSQL are killed right before "
    "the key is disabled, and cached keys expire with their cache time, here {cache:g} s. Requests to KMS and OpenBao "
    "pass a proxy in Python, which adds some milliseconds."
)


@dataclass
class Series:
    """Results for one provider: seconds, one value per run; by listener where there are two."""

    last: dict[str, list[float]] = field(default_factory=lambda: {"https": [], "kmip": []})
    first: dict[str, list[float]] = field(default_factory=lambda: {"https": [], "kmip": []})
    locked: list[float] = field(default_factory=list)
    taking: list[float] = field(default_factory=list)
    """Duration of the customer's call."""
    rate: list[float] = field(default_factory=list)
    """Responses per second while both listeners served."""
    unserved: int = 0
    """Requests without success although the key was enabled."""
    tried: dict[str, int] = field(default_factory=dict)
    cut_off: dict[str, float] = field(default_factory=dict)
    """The last success while three servers are down."""
    dead_for: float = 0.0
    """How long they had been down when the key was disabled."""


def run(*, quick: bool) -> tuple[Result, Figure]:
    runs, tries, cache = (2, 400, 6.0) if quick else (20, 10_000, 60.0)
    with tempfile.TemporaryDirectory(prefix="openkcm-holders-") as place, _holders(Path(place)) as holders:
        settings = {name: as_setting(value) for name, value in holders.settings().items()}
        with connected_stack(TENANT, "microservice", crypto_key_cache_seconds=cache, **settings) as (stack, folder):
            customer = _Customer(stack, listeners(stack, folder), Path(place))
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
        title="A customer disables the root key, and enables it again",
        quick=quick,
        protocol=protocol,
        checks=list(_checks(series, tries, cache)),
        summary=_summary(series, tries),
        samples={provider: vars(one) for provider, one in series.items()},
    )
    return result, _plot(series)


class _Customer:
    """Controls the root key and measures the times."""

    def __init__(self, stack: Stack, listeners: Sequence[Listener], folder: Path) -> None:
        self._stack = stack
        self._listeners = listeners
        self._folder = folder
        self._database: Database = stack.database(Role.OPERATOR)

    def close(self) -> None:
        self._database.close()

    def measure(self, holder: Holder, runs: int, tries: int) -> Series:
        """Change to this root key and measure all steps of the protocol."""
        provider, series = holder.place.provider, Series()
        self._stack.openkcm("root-key", "change", TENANT, *holder.words(self._folder), timeout=_PATIENCE_SECONDS)
        with asking(self._listeners, _RATE, _CONNECTIONS, self._folder / f"{provider}.answers") as seen:
            for number in range(1, runs + 1):
                self._serve(seen, series)
                self._revoke(holder, seen, series)
                if number == runs:
                    series.tried = self._try_hard(provider, tries)
                self._restore(holder, seen, series)
                last = max(series.last[listener][-1] for listener in series.last)
                print(f"  {provider} {number}: last success {last:.2f} s, locked {series.locked[-1]:.2f} s", flush=True)
            self._serve(seen, series)
            self._cut_off(holder, seen, series)
        return series

    def _serve(self, seen: Steady, series: Series) -> None:
        """Let both listeners serve for a while."""
        seconds = random.uniform(*_STEADY_SECONDS)  # noqa: S311 - spreads the runs, not secret
        seen.new()
        time.sleep(seconds)
        answers = seen.new()
        found = Counter(f"{answer.listener} {answer.outcome}" for answer in answers)
        assert found.keys() >= {"https ok", "kmip ok"}, f"a listener failed while the root key was enabled: {found}"
        series.unserved += len(answers) - found["https ok"] - found["kmip ok"]
        series.rate.append(round(len(answers) / seconds, 1))

    def _revoke(self, holder: Holder, seen: Steady, series: Series) -> None:
        began = time.monotonic()
        holder.take_away()
        returned = time.monotonic()
        series.taking.append(round(returned - began, 4))
        self._wait(lambda: self._state() is State.LOCKED, "locked")
        series.locked.append(round(time.monotonic() - returned, 4))
        for listener, at in _last_successes(seen, began, returned, _LIMIT_SECONDS * 4).items():
            series.last[listener].append(round(at - returned, 4))

    def _restore(self, holder: Holder, seen: Steady, series: Series) -> None:
        seen.new()
        holder.give_back()
        returned = time.monotonic()
        answers: list[Answered] = []

        def served() -> bool:
            answers.extend(answer for answer in seen.new() if answer.outcome == "ok")
            return {answer.listener for answer in answers} == {listener.name for listener in self._listeners}

        self._wait(served, "served again")
        for listener in self._listeners:
            first = min(answer.at for answer in answers if answer.listener == listener.name)
            series.first[listener.name].append(round(first - returned, 4))
        # Every process of the crypto service is notified, and unwraps the keys that it needs.
        self._wait(lambda: _all_served(seen), "served everywhere")

    def _try_hard(self, provider: str, tries: int) -> dict[str, int]:
        answers = ask_fast(self._listeners, tries // 2, _CONNECTIONS, self._folder / f"{provider}.tries")
        assert len(answers) == tries, f"{len(answers)} answers to {tries} tries"
        return dict(Counter(f"{answer.listener} {answer.outcome}" for answer in answers))

    def _cut_off(self, holder: Holder, seen: Steady, series: Series) -> None:
        """Disable the key while only the crypto service itself can notice it."""
        seen.new()
        with without(self._stack, _SERVERS) as killed:
            began = time.monotonic()
            holder.take_away()
            returned = time.monotonic()
            found = _last_successes(seen, began, returned, 2 * self._stack.settings.crypto_key_cache_seconds + 20)
            series.cut_off = {listener: round(at - returned, 3) for listener, at in found.items()}
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
    """Wait until there is no success for a while, and return the time of each listener's last success."""
    last = {"https": began, "kmip": began}
    newest = began
    deadline = otherwise + patience
    while newest < max(otherwise, *last.values()) + _QUIET_SECONDS:
        for answer in seen.new():
            newest = max(newest, answer.at)
            if answer.outcome == "ok":
                last[answer.listener] = max(last[answer.listener], answer.at)
        if time.monotonic() > deadline:
            raise TimeoutError(f"still served {patience:g} s after the root key was disabled")
        time.sleep(_POLL_SECONDS)
    return last


def _all_served(seen: Steady) -> bool:
    """Return whether all requests of one second succeeded."""
    seen.new()
    time.sleep(1.0)
    return {answer.outcome for answer in seen.new()} == {"ok"}


@contextmanager
def _holders(folder: Path) -> Iterator[Holders]:
    with Holders(folder / "holders", TENANT).until_closed() as holders:
        yield holders


def _checks(series: dict[str, Series], tries: int, cache: float) -> Iterator[Check]:
    for provider, one in series.items():
        for listener, times in one.last.items():
            measured = round(percentile(times, 95), 2)
            yield Check(f"{provider}: p95 to the last success over {listener}", measured, _LIMIT_SECONDS, "s")
        successes = sum(times for what, times in one.tried.items() if what.endswith(" ok"))
        yield Check(f"{provider}: successes in {tries:,} tries after it", successes, 0, "")
        measured = max(one.cut_off.values())
        yield Check(f"{provider}: last success without worker, Temporal and PostgreSQL", measured, cache, "s")


def _summary(series: dict[str, Series], tries: int) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for provider, one in series.items():
        last = {f"{provider}, last success over {name} (s)": spread(times) for name, times in one.last.items()}
        first = {f"{provider}, first success over {name} (s)": spread(times) for name, times in one.first.items()}
        summary |= last
        summary[f"{provider}, tenant locked (s)"] = spread(one.locked)
        summary |= first
        summary[f"{provider}, the customer's call (s)"] = spread(one.taking)
        summary[f"{provider}, {tries:,} tries while it is disabled"] = one.tried
        summary[f"{provider}, cut off, last success (s)"] = one.cut_off | {"servers dead before": one.dead_for}
        summary[f"{provider}, while it serves"] = {"answers/s": spread(one.rate)["p50"], "not served": one.unserved}
    return summary


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
