"""Time from a customer's kill switch until an unchanged application reads and writes its last protected value."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from psycopg.conninfo import make_conninfo

from devstack.servers.postgres import PostgresServer
from tests.benchmarks import report
from tests.benchmarks.harness.service_fixture import connect, connected_stack
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, percentile, spread
from tests.e2e.root_keys.applications import Application, running
from tests.e2e.root_keys.holders import Holders
from tests.e2e.stack import as_setting
from tests.ports import free_port

TENANT = "bench-switch-1"
PROVIDERS = ("aws-kms", "pkcs11", "openbao")
_SERVICE = "bench"
_LIMIT_SECONDS = 5.0
_QUIET_SECONDS = 3.0
_SERVED_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_PROTOCOL = (
    "One stack, one tenant, one service, and a PostgreSQL outside the stack. A stock psycopg application (monitor.py "
    "of the tests) runs under `openkcm run` as one process: it repeatedly writes a row with a protected column, reads "
    "it back and waits 3 ms, and records the time of each response. It may cache a column key for {key_seconds:g} s, "
    "as usual. {runs} times each, the customer uses a switch, waits until nothing was read or written for {quiet:g} s, "
    "and reverts it; then the application works for {served:g} s. The switches: `openkcmctl tenant lock`; `openkcm "
    "service disconnect`, reverted by `openkcmctl service connect` into the same folder; the root key disabled by its "
    "customer in AWS KMS (MiniStack), in a token (SoftHSM2, PKCS#11) and in the customer's OpenBao. Times count from "
    "the return of the command or of the customer's call to the last success (negative if it was before), and to the "
    "first success after the return of the reverting call. Finally `make down` stops every server of the platform, "
    "so that no server can reject a request: the application continues until its cached column key expires."
)


@dataclass
class Series:
    """Results for one switch: seconds, one value per run."""

    last_read: list[float] = field(default_factory=list)
    last_write: list[float] = field(default_factory=list)
    served_again: list[float] = field(default_factory=list)
    pulling: list[float] = field(default_factory=list)
    """Duration of the command or call."""
    said: str = ""
    """The first error message in the application."""


def run(*, quick: bool) -> tuple[Result, Figure]:
    runs, key_seconds = (2, 12.0) if quick else (10, 60.0)
    with (
        tempfile.TemporaryDirectory(prefix="openkcm-switch-") as place,
        _database(Path(place)) as database,
        Holders(Path(place) / "holders", TENANT).until_closed() as holders,
    ):
        settings = {name: as_setting(value) for name, value in holders.settings().items()}
        with (
            connected_stack(TENANT, "microservice", **settings) as (stack, folder),
            running(folder, database, Path(place) / "app", key_seconds=key_seconds) as application,
        ):
            customer = _Customer(stack, application, Path(place))
            series = {what: customer.measure(what, *how, runs) for what, how in customer.switches()}
            series |= {f"root key disabled, {one}": customer.hold(holders, one, runs) for one in PROVIDERS}
            stopped = customer.stop_all(key_seconds)
            plain = sum(not note.startswith("okcm:c1:") for note in application.stored())
    protocol = _PROTOCOL.format(key_seconds=key_seconds, runs=runs, quiet=_QUIET_SECONDS, served=_SERVED_SECONDS)
    result = Result(
        name="kill_switch",
        title="A customer uses a kill switch, and an unchanged application stops",
        quick=quick,
        protocol=protocol,
        checks=list(_checks(series, stopped, plain, key_seconds)),
        summary=_summary(series, stopped),
        samples={what: vars(one) for what, one in series.items()} | {"platform stopped": stopped},
    )
    return result, _plot(series)


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL server of the customer."""
    folder.chmod(0o711)
    server = PostgresServer(folder / "postgres", free_port())
    server.prepare()
    server.start()
    try:
        server.wait_ready()
        yield make_conninfo(server.admin_conninfo, dbname="postgres")
    finally:
        server.stop()


class _Customer:
    """Uses the switches and measures the times."""

    def __init__(self, stack: Stack, application: Application, folder: Path) -> None:
        self._stack, self._application, self._folder = stack, application, folder

    def switches(self) -> Iterator[tuple[str, tuple[Callable[[], object], Callable[[], object]]]]:
        openkcm = self._stack.openkcm
        yield (
            "tenant locked",
            (
                lambda: openkcm("tenant", "lock", TENANT, "--confirm", TENANT),
                lambda: openkcm("tenant", "unlock", TENANT),
            ),
        )
        yield (
            "service disconnected",
            (
                lambda: openkcm("service", "disconnect", TENANT, _SERVICE, "--confirm", _SERVICE),
                lambda: connect(self._stack, TENANT, "microservice", _SERVICE),
            ),
        )

    def hold(self, holders: Holders, provider: str, runs: int) -> Series:
        """Change to a root key of the customer, and measure its revocation."""
        holder = holders.hold(provider)
        self._stack.openkcm("root-key", "change", TENANT, *holder.words(self._folder), timeout=_PATIENCE_SECONDS)
        return self.measure(f"root key disabled, {provider}", holder.take_away, holder.give_back, runs)

    def measure(self, what: str, pull: Callable[[], object], undo: Callable[[], object], runs: int) -> Series:
        series = Series()
        for number in range(1, runs + 1):
            time.sleep(_SERVED_SECONDS)
            began = time.monotonic()
            pull()
            pulled = time.monotonic()
            stopped = self._application.wait_stopped(began, _QUIET_SECONDS)
            series.pulling.append(round(pulled - began, 4))
            series.last_read.append(round(stopped.last_read - pulled, 4))
            series.last_write.append(round(stopped.last_write - pulled, 4))
            series.said = stopped.said
            beginning = time.monotonic()
            undo()
            undone = time.monotonic()
            series.served_again.append(round(self._application.wait_served(beginning) - undone, 4))
            print(
                f"  {what} {number}: last read {series.last_read[-1]:.2f} s, last write {series.last_write[-1]:.2f} s,"
                f" served again {series.served_again[-1]:.2f} s",
                flush=True,
            )
        return series

    def stop_all(self, key_seconds: float) -> dict[str, float]:
        """Stop the platform and start it again; return seconds."""
        time.sleep(_SERVED_SECONDS)
        began = time.monotonic()
        self._stack.openkcm("down", timeout=_PATIENCE_SECONDS)
        down = time.monotonic()
        stopped = self._application.wait_stopped(began, _QUIET_SECONDS, 2 * key_seconds)
        starting = time.monotonic()
        self._stack.openkcm("up", timeout=2 * _PATIENCE_SECONDS)
        up = time.monotonic()
        found = {
            "last read": stopped.last_read - down,
            "last write": stopped.last_write - down,
            "served again": self._application.wait_served(starting) - up,
            "stopping it took": down - began,
        }
        print(f"  platform stopped: {found}", flush=True)
        return {what: round(seconds, 3) for what, seconds in found.items()}


def _checks(series: dict[str, Series], stopped: dict[str, float], plain: int, key_seconds: float) -> Iterator[Check]:
    for what, one in series.items():
        yield Check(f"{what}: the latest of all last reads", max(one.last_read), _LIMIT_SECONDS, "s")
        yield Check(f"{what}: the latest of all last writes", max(one.last_write), _LIMIT_SECONDS, "s")
    last = max(stopped["last read"], stopped["last write"])
    yield Check("the whole platform stopped: last success", last, key_seconds, "s")
    yield Check("values that were stored plain meanwhile", plain, 0, "")


def _summary(series: dict[str, Series], stopped: dict[str, float]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for what, one in series.items():
        summary[f"{what}, last read (s)"] = spread(one.last_read)
        summary[f"{what}, last write (s)"] = spread(one.last_write)
        summary[f"{what}, served again (s)"] = spread(one.served_again)
        summary[f"{what}, the command or call (s)"] = spread(one.pulling)
    return summary | {"the whole platform stopped (s)": stopped}


def _plot(series: dict[str, Series]) -> Figure:
    rows: list[str] = []
    figure, axes = report.canvas(10, 1.5 + 0.5 * 3 * len(series))
    for what, one in series.items():
        for name, times, colour in (
            ("last read", one.last_read, report.BLUE),
            ("last write", one.last_write, report.ORANGE),
            ("served again", one.served_again, report.GREEN),
        ):
            place = len(rows)
            rows.append(f"{what}: {name}")
            axes.scatter(times, [place] * len(times), color=colour, alpha=0.6, s=20)
            axes.scatter([percentile(times, 95)], [place], color=colour, marker="|", s=300, lw=3)
    axes.axvline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit, {_LIMIT_SECONDS:g} s")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set(title="after the command or call has returned", xlabel="seconds (bars: p95)")
    axes.legend(loc="lower right")
    return figure
