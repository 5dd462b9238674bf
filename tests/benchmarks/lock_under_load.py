"""Time from the request to lock a tenant until it is locked, while all slow work of the worker is busy."""

import asyncio
import os
import re
import socket
import statistics
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx2
from matplotlib.figure import Figure

from config.secrets import Role
from core.keys.rotation import RotationScope
from core.messages.keys import RotateRequest
from core.messages.tenants import StatusChange
from core.names import ActivityKind, activity_queue
from core.tenants.lifecycle import State
from database.connection.database import Database
from openkcm.errors import OpenKcmError
from tests.benchmarks import report
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, percentile, spread
from tests.concurrency import wait_until_async
from tests.kms.estate import make_service_keys
from tests.pausing import paused
from worker import wiring
from workflows.client.connection import connect_client
from workflows.client.workflow_client import WorkflowClient

Seconds = dict[StatusChange, list[float]]
"""Seconds of each status change."""

_REGION = "eu-west-1"
_LIMIT_SECONDS = 2.0
_TIMEOUT_SECONDS = 120.0
_PATIENCE_SECONDS = 300.0
_MOVES = (StatusChange.SUSPEND, StatusChange.LOCK, StatusChange.UNLOCK, StatusChange.RESUME)
_PROTOCOL = (
    "One stack, {rotating} tenants with {services:,} service keys each, made through the worker's adapters, and "
    "{waiting} tenants without. All {rotating} create new versions of all keys at {rate:g} keys per second; "
    "`worker_rotations` = {slots} of them run at a time. Callback and mail server accept connections and never answer, "
    "and each tenant has notifications for both. One PostgreSQL backend of an idle connection of the worker is stopped "
    "with SIGSTOP. The slots of rotations are all busy before the first try (the worker's metrics)."
    " Then a client suspends, locks, unlocks and resumes one tenant after the other, {tries} times: the "
    "rotating ones and the others in turn. A time counts from the request until its response, after which the state in "
    "the tenant's row is compared. The same is done {tries} times before the rotations start. All of it shares {cores} "
    "cores."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    services, rotating, waiting, tries, rate = (40, 5, 4, 8, 1.0) if quick else (2000, 6, 8, 50, 50.0)
    with _silent_server() as callback, _silent_server() as mail:
        receivers: dict[str, float | str] = {
            "callback_url": f"http://127.0.0.1:{callback}/",
            "smtp_host": "127.0.0.1",
            "smtp_port": mail,
            "smtp_security": "none",
            "email_to": "security@example.org",
        }
        with Stack(rewrap_per_second=rate, **receivers) as stack:
            load = _Load(stack, rotating, waiting, services)
            asyncio.run(load.measure(tries))
            slots = stack.settings.worker_rotations
    seconds, idle, free = load.seconds, load.seconds_before, load.free
    slowest = max(max(times) for times in seconds.values())
    checks = [
        Check("tenant locked, p99 from the request", percentile(seconds[StatusChange.LOCK], 99), _LIMIT_SECONDS, "s"),
        Check("suspended, locked, unlocked or resumed: the slowest", slowest, _LIMIT_SECONDS, "s"),
        Check("responses whose state was not in the tenant's row", load.wrong, 0, ""),
        Check("free slots of rotations, median of the tries", statistics.median(free), 0, ""),
    ]
    result = Result(
        name="lock_under_load",
        title="A tenant is locked while all slow work of the worker is busy",
        quick=quick,
        protocol=_PROTOCOL.format(
            rotating=rotating,
            services=services,
            waiting=waiting,
            rate=rate,
            slots=slots,
            tries=tries,
            cores=os.cpu_count(),
        ),
        checks=checks,
        summary={
            **{f"{move} (s)": spread(times) for move, times in seconds.items()},
            **{f"{move}, before the rotations (s)": spread(times) for move, times in idle.items()},
            "most free slots": max(free),
        },
        samples={
            "during": {str(move): times for move, times in seconds.items()},
            "before": {str(move): times for move, times in idle.items()},
            "free slots": free,
        },
    )
    return result, _plot(seconds)


@contextmanager
def _silent_server() -> Iterator[int]:
    """Accept connections on a port and answer nothing; yields the port."""
    kept: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):  # the socket is closed at the end
            while True:
                kept.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            for connection in kept:
                connection.close()


class _Load:
    """The tenants, the work that keeps the worker busy, and the measured status changes."""

    def __init__(self, stack: Stack, rotating: int, waiting: int, services: int) -> None:
        self._stack = stack
        self.seconds: Seconds = {move: [] for move in _MOVES}
        self.seconds_before: Seconds = {move: [] for move in _MOVES}
        """The same before the rotations start."""
        self.wrong = 0
        """Responses with another state than the tenant's row."""
        self.free: list[int] = []
        """Free slots of rotations, at each try."""
        self._rotating = [f"rotating-{number}-corp" for number in range(rotating)]
        self._waiting = [f"waiting-{number}-corp" for number in range(waiting)]
        for tenant_id in (*self._rotating, *self._waiting):
            stack.openkcm("enable", tenant_id, "--organization", "Bench Corp", "--region", _REGION, "--wait")
        parts = wiring.build(stack.settings)
        for tenant_id in self._rotating:
            names = [f"service-{place:05}" for place in range(services)]
            make_service_keys(parts, tenant_id, _REGION, names)
            print(f"  {services} service keys of {tenant_id} made", flush=True)
        parts.database.close()

    async def measure(self, tries: int) -> None:
        """Change the status of one tenant after the other, and measure the seconds of each change."""
        settings = self._stack.settings
        client = await connect_client(settings.temporal_address)
        gateway = WorkflowClient(client, settings.provisioning_slo_seconds, _TIMEOUT_SECONDS)
        targets = [one for pair in zip(self._rotating, self._waiting, strict=False) for one in pair]
        turns = [targets[number % len(targets)] for number in range(tries)]
        with ExitStack() as stack:
            database = self._stack.database(Role.OPERATOR)
            stack.callback(database.close)
            for tenant_id in turns:
                await self._change_status(gateway, database, tenant_id, self.seconds_before)
            async with self._busy(gateway):
                stack.enter_context(_stopped_backend(self._stack.pids()["postgres"]))
                for tenant_id in turns:
                    await self._change_status(gateway, database, tenant_id, self.seconds)
                    self.free.append(await self._free_slots())

    async def _change_status(
        self, gateway: WorkflowClient, database: Database, tenant_id: str, seconds: Seconds
    ) -> None:
        for move in _MOVES:
            began = time.monotonic()
            await gateway.change_standing(tenant_id, move)
            seconds[move].append(round(time.monotonic() - began, 4))
            self.wrong += await asyncio.to_thread(_state, database, tenant_id) is not _AFTER[move]
        print(f"  {tenant_id}: locked in {seconds[StatusChange.LOCK][-1]:.3f} s", flush=True)

    @asynccontextmanager
    async def _busy(self, gateway: WorkflowClient) -> AsyncIterator[None]:
        """Start the rotations and wait until they take all slots."""
        rotations = [asyncio.create_task(self._rotate(gateway, tenant_id)) for tenant_id in self._rotating]

        async def every_slot_is_busy() -> bool:
            return not await self._free_slots()

        await wait_until_async(every_slot_is_busy, seconds=_PATIENCE_SECONDS)
        try:
            yield
        finally:
            for rotation in rotations:
                rotation.cancel()

    @staticmethod
    async def _rotate(gateway: WorkflowClient, tenant_id: str) -> None:
        with suppress(OpenKcmError):
            request = RotateRequest(request_id=uuid.uuid4().hex, services=RotationScope.ALL, tenant_key=True)
            await gateway.rotate_keys(tenant_id, request)

    async def _free_slots(self) -> int:
        """Return the free slots of rotations, as the worker exports them."""
        queue = activity_queue(ActivityKind.PACED, _REGION)
        async with httpx2.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{self._stack.settings.worker_metrics_port}/metrics")).text
        free = 0
        for line in text.splitlines():
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if line.startswith("temporal_worker_task_slots_available") and labels["worker_type"] == "ActivityWorker":
                free += int(float(line.rsplit(" ", 1)[1])) if labels["task_queue"] == queue else 0
        return free


_AFTER = dict(zip(_MOVES, (State.SUSPENDED, State.LOCKED, State.SUSPENDED, State.ACTIVE), strict=True))


def _state(database: Database, tenant_id: str) -> State | None:
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
    return None if row is None else row.state


@contextmanager
def _stopped_backend(postgres: int) -> Iterator[None]:
    """Stop the PostgreSQL backend of an idle connection of the worker, as a hung server does."""
    children = Path(f"/proc/{postgres}/task/{postgres}/children")
    while True:
        idle = [pid for pid in map(int, children.read_text(encoding="ascii").split()) if _is_idle(pid)]
        if idle:
            break
        time.sleep(0.01)
    with paused(idle[0]):
        yield


def _is_idle(pid: int) -> bool:
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ")
        return b"okcm_worker" in title and title.endswith(b" idle")
    return False


def _plot(seconds: Mapping[StatusChange, Sequence[float]]) -> Figure:
    figure, axes = report.canvas(9, 4)
    rows = [str(move) for move in seconds]
    for place, times in enumerate(seconds.values()):
        axes.scatter(times, [place] * len(times), color=report.BLUE, alpha=0.6, s=20)
        axes.scatter([percentile(times, 99)], [place], color=report.ORANGE, marker="|", s=300, lw=3)
    axes.axvline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit, {_LIMIT_SECONDS:g} s")
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set(title="status changes while all slow work is busy", xlabel="seconds (bars: p99)", xlim=(0, None))
    axes.legend(loc="lower right")
    return figure
