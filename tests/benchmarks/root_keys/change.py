"""Duration of a root key change for a tenant with 1,000 services, and the cost of a killed worker."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from matplotlib.figure import Figure

from config import secrets
from config.credential_encryption import encrypt_credentials
from config.secrets import Role, read_secret
from core.keys.root_keys import PlatformKeyRef
from database.connection.database import Database
from database.root_keys import RootKeyChangeRow, RootKeyRequestRow
from tests.benchmarks import report
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result
from tests.kms.customer_openbao import CustomerOpenBao
from tests.kms.estate import assert_in_force, make_service_keys
from tests.kms.opening import Opener
from worker import wiring
from workflows.client.workflow_client import WorkflowClient

_TENANT = "many-services-corp"
_REGION = "eu-west-1"
_LIMIT_SECONDS = 60
_LIMIT_AGAIN = 64
_SAMPLE = 50
_POLL_SECONDS = 0.05
_PREFLIGHT = 2
"""Encryptions of a preflight: a round trip, and the canary ciphertext."""
_PROTOCOL = (
    "A tenant has {services} service keys, created through the worker's adapters. Its root key is changed through the "
    "workflow client from the platform's key to one in an OpenBao of the customer (on this machine, which responds "
    "faster than a remote one), and back. Then it is changed to the customer's key again, while the worker is killed "
    "(-9) when half of the keys are recorded as wrapped; the stack's supervisor starts it again. For each key there is "
    "a call that unwraps the former wrap and three calls to the customer's server: check the key, encrypt, decrypt to "
    "verify. The number of wraps is counted in the audit file of the customer's server. After each change {sample} of "
    "the service keys are unwrapped and compared with their former values."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    services = 100 if quick else 1000
    folder = Path(tempfile.mkdtemp(prefix="openkcm-bench-customer-"))
    bao = CustomerOpenBao.start(folder)
    try:
        with Stack() as stack:
            changes, seconds, again = _measure(stack, bao, services)
    finally:
        bao.kill()
        shutil.rmtree(folder, ignore_errors=True)
    checks = [Check(f"{name}, {services} service keys", took, _LIMIT_SECONDS, "s") for name, took in seconds.items()]
    checks.append(Check("service keys wrapped again after the kill", again, _LIMIT_AGAIN, "keys"))
    result = Result(
        name="root_key_change",
        title=f"Another root key for {services} services",
        quick=quick,
        protocol=_PROTOCOL.format(services=services, sample=_SAMPLE),
        checks=checks,
        summary={
            "seconds": seconds,
            "service keys per second": {name: round(services / took) for name, took in seconds.items()},
            "service keys wrapped again after the kill": again,
        },
        samples={name: [[round(at, 2), wrapped] for at, wrapped in progress] for name, progress in changes.items()},
    )
    return result, _plot(changes, seconds)


def _measure(
    stack: Stack, bao: CustomerOpenBao, services: int
) -> tuple[dict[str, list[tuple[float, int]]], dict[str, float], int]:
    stack.openkcm("enable", _TENANT, "--organization", "Bench Corp", "--region", _REGION, "--wait")
    parts = wiring.build(stack.settings)
    names = [f"service-{number:04}" for number in range(services)]
    make_service_keys(parts, _TENANT, _REGION, names)
    sample = names[:: max(1, services // _SAMPLE)]
    changes: dict[str, list[tuple[float, int]]] = {}
    seconds: dict[str, float] = {}
    with Opener(stack.settings) as opener:
        change = _Change(stack, bao, parts.database)

        def unwrap_sample() -> list[bytes]:
            return [opener.open(_TENANT, _REGION, name, 1) for name in sample]

        def measured(name: str, *, customers: bool, meanwhile: Callable[[int], None] = _nothing) -> None:
            seconds[name], changes[name] = change.to(customers=customers, meanwhile=meanwhile)
            assert unwrap_sample() == before, "an unwrapped service key has changed"
            print(f"  {name}: {seconds[name]:.1f} s", flush=True)

        before = unwrap_sample()
        measured("to the customer", customers=True)
        measured("back to the platform", customers=False)
        asked = bao.count("encrypt")
        killing = _KillOnce(stack.pids()["worker"], services // 2)
        measured("to the customer, worker killed half way", customers=True, meanwhile=killing)
        again = bao.count("encrypt") - asked - services - _PREFLIGHT
        assert killing.done, "the worker was never killed"
    parts.database.close()
    return changes, seconds, again


def _nothing(_wrapped: int) -> None:
    pass


class _KillOnce:
    def __init__(self, pid: int, at: int) -> None:
        self._pid, self._at, self.done = pid, at, False

    def __call__(self, wrapped: int) -> None:
        if wrapped >= self._at and not self.done:
            self.done = True
            os.kill(self._pid, signal.SIGKILL)


class _Change:
    def __init__(self, stack: Stack, bao: CustomerOpenBao, database: Database) -> None:
        self._stack, self._bao, self._database = stack, bao, database
        self._operator = stack.database(Role.OPERATOR)

    def to(self, *, customers: bool, meanwhile: Callable[[int], None]) -> tuple[float, list[tuple[float, int]]]:
        """Change the root key; return the duration in seconds, and the number of wrapped keys over time."""
        request_id, progress = self._request(customers=customers), []
        number = self._last_number() + 1
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            changing = pool.submit(asyncio.run, self._ask(request_id))
            while not changing.done():
                now = self._wrapped(number)
                progress.append((time.monotonic() - began, now))
                meanwhile(now)
                time.sleep(_POLL_SECONDS)
            took = time.monotonic() - began
            changing.result()
        progress.append((took, self._wrapped(number)))
        place = self._bao.place() if customers else PlatformKeyRef()
        assert_in_force(self._database, _TENANT, place.provider, request_id if customers else None)
        return round(took, 2), progress

    async def _ask(self, request_id: str) -> None:
        settings = self._stack.settings
        gateway = await WorkflowClient.connect(settings.temporal_address, settings.provisioning_slo_seconds)
        await gateway.change_root_key(_TENANT, request_id)

    def _request(self, *, customers: bool) -> str:
        request_id = uuid.uuid4().hex
        public = read_secret(self._stack.settings.secrets, secrets.INTAKE_PUBLIC_KEY)
        request = RootKeyRequestRow(request_id, PlatformKeyRef(), None)
        if customers:
            sealed = encrypt_credentials(public, _TENANT, request_id, self._bao.token())
            request = RootKeyRequestRow(request_id, self._bao.place(), sealed)
        with self._operator.tenant_tx(_TENANT) as tx:
            tx.root_keys.request(request)
        return request_id

    def _last(self) -> RootKeyChangeRow | None:
        with self._operator.tenant_tx(_TENANT) as tx:
            return next(iter(tx.root_keys.changes(1)), None)

    def _last_number(self) -> int:
        last = self._last()
        return 0 if last is None else last.number

    def _wrapped(self, number: int) -> int:
        last = self._last()
        return last.wrapped if last is not None and last.number == number else 0


def _plot(changes: dict[str, list[tuple[float, int]]], seconds: dict[str, float]) -> Figure:
    figure, axes = report.canvas()
    for (name, progress), colour in zip(changes.items(), (report.BLUE, report.GREEN, report.ORANGE), strict=True):
        axes.plot(*zip(*progress, strict=True), color=colour, label=f"{name}: {seconds[name]:.1f} s")
    axes.set(title="service keys wrapped under the new root key", xlabel="seconds from the request", ylabel="keys")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    return figure
