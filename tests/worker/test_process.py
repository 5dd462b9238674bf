"""The worker process waits for its servers, serves metrics, and completes running activities before it stops."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from temporalio.client import Client

from config.settings import Settings
from core.errors.compliance import CanaryMissing
from core.errors.platform import ReleaseOutdated, TemporalUnavailable, VaultUnavailable
from core.names import CANARY_TENANT_ID, MIRROR_TENANT_ID
from core.tenants.lifecycle import State, Transition
from core.tenants.provisioning import Step
from database.connection.database import Database
from database.schema.version import NEWEST
from tests.activities.conftest import NOWHERE
from tests.activities.provisioning import Provisioning
from tests.database.schemas import outdate
from tests.database.silent_peer import Relay
from tests.e2e.receivers import CallbackReceiver
from tests.ports import free_port
from tests.worker.conftest import port_of, process_environment
from workflows.client.workflow_client import WorkflowClient

ROOT = Path(__file__).parents[2]


class Process:
    """A process `python -m worker` with the given settings."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log_file = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                cwd=ROOT,
                env=process_environment(settings),
                stdout=output,
                stderr=output,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def wait_until(self, true: Callable[[], bool], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[[Settings], Process]]:
    started: list[Process] = []

    def start(settings: Settings) -> Process:
        started.append(Process(settings, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


@pytest.fixture
def callback() -> Iterator[CallbackReceiver]:
    receiver = CallbackReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def process_settings(settings: Settings, temporal_client: Client, callback: CallbackReceiver) -> Settings:
    mail = {"smtp_host": None, "email_to": None}
    ports = {"temporal_port": port_of(temporal_client), "worker_metrics_port": free_port()}
    return settings.model_copy(update={**mail, **ports, "callback_url": callback.url, "shutdown_grace_seconds": 60.0})


@pytest.fixture
def enable(temporal_client: Client, request_tenant: Callable[..., Provisioning]) -> Callable[[], Awaitable[str]]:
    """Return a function that accepts an event, sends it to Temporal and returns the new tenant's id."""

    async def enable() -> str:
        tenant_id = request_tenant().tenant_id
        await WorkflowClient(temporal_client, provisioning_slo_seconds=180).enable(tenant_id, "eu-west-1", "event-1")
        return tenant_id

    return enable


def is_active(database: Database, tenant_id: str) -> bool:
    with database.tenant_tx(tenant_id) as tx:
        row = tx.tenants.get()
    return row is not None and row.state is State.ACTIVE


async def test_worker_serves_metrics_and_completes_its_activity_before_it_stops(
    start, process_settings, callback, parts, enable
):
    worker = start(process_settings.model_copy(update={"worker_metrics_host": "127.0.0.2"}))
    worker.wait_until(lambda: is_active(parts.database, CANARY_TENANT_ID))
    tenant_id = await enable()
    for one in (tenant_id, MIRROR_TENANT_ID):
        worker.wait_until(lambda one=one: is_active(parts.database, one))
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.2:{process_settings.worker_metrics_port}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if line and not line.startswith("#"))
    named = {name.partition("{")[0] for name in values}
    assert {"temporal_num_pollers", "openkcm_provisioning_seconds_bucket", "openkcm_isolation_checks_total"} <= named
    ready = [float(value) for name, value in values.items() if name.startswith("openkcm_provisioning_seconds_count")]
    assert sum(ready) == 3  # both canary tenants and the tenant
    assert [value for name, value in values.items() if 'outcome="breached"' in name] == ["0"]
    assert tenant_id not in answer.text

    with callback.holding():
        tenant_id = await enable()
        worker.wait_until(lambda: bool(callback.about(tenant_id, "ready")))
        worker.process.terminate()
        worker.wait_until(lambda: "worker draining" in worker.log)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(0.5)
        with parts.database.tenant_tx(tenant_id) as tx:
            assert len(tx.outbox.unsent()) == 1
    assert worker.process.wait(60) == 0
    with parts.database.tenant_tx(tenant_id) as tx:
        assert tx.outbox.unsent() == []
    assert len(callback.about(tenant_id, "ready")) == 1


def test_worker_stops_while_it_waits_for_the_canary(start, process_settings, parts, request_tenant):
    request_tenant(CANARY_TENANT_ID, "OpenKCM canary").run(Step.OPEN_RECORDS)
    with parts.database.tenant_tx(CANARY_TENANT_ID) as tx:
        for move in (Transition.ACTIVATE, Transition.SUSPEND):
            tx.tenants.move(move)
    worker = start(process_settings)
    worker.wait_until(lambda: CanaryMissing.code in worker.log)
    worker.process.terminate()
    assert worker.process.wait(process_settings.shutdown_grace_seconds / 2) == 0
    assert "worker draining" in worker.log
    assert "worker ready" not in worker.log


@pytest.mark.parametrize(
    ("addresses", "code"),
    [({"vault_address": NOWHERE}, VaultUnavailable.code), ({}, TemporalUnavailable.code)],
    ids=["OpenBao and Temporal", "Temporal"],
)
def test_worker_waits_for_servers_that_are_down_and_stops_at_once(start, settings, addresses, code):
    ports = {"temporal_port": free_port(), "worker_metrics_port": free_port()}
    worker = start(settings.model_copy(update=ports | addresses))
    worker.wait_until(lambda: code in worker.log)
    worker.process.terminate()
    assert worker.process.wait(60) == 0
    assert "Traceback" not in worker.log


def test_worker_waits_for_its_schema_and_is_not_ready_with_another(start, process_settings, field):
    def ready() -> float:
        url = f"http://127.0.0.1:{process_settings.worker_metrics_port}/metrics"
        page = httpx2.get(url, trust_env=False, timeout=30).text
        return float(re.search(r"^openkcm_worker_ready\{.*\} (.*)$", page, re.MULTILINE)[1])

    migrate_again = outdate(field)
    worker = start(process_settings)
    worker.wait_until(lambda: "this version needs" in worker.log)
    assert "schema_outdated" in worker.log
    migrate_again()
    worker.wait_until(lambda: "worker ready" in worker.log)
    worker.wait_until(lambda: ready() == 1)
    migrate_again = outdate(field)
    worker.wait_until(lambda: ready() == 0)
    migrate_again()
    worker.wait_until(lambda: ready() == 1)


def test_worker_whose_release_is_outdated_drains_and_takes_no_more_tasks(start, process_settings, field):
    worker = start(process_settings)
    worker.wait_until(lambda: "worker ready" in worker.log)
    with field.administrator() as administrator:
        administrator.execute(f"insert into okcm.schema_migration values (9002, 'y', '', now(), {NEWEST + 1})")
    assert worker.process.wait(90) == 1
    [draining] = [line for line in worker.log.splitlines() if "worker draining" in line]
    assert json.loads(draining)["code"] == ReleaseOutdated.code
    # A supervisor starts it again: then it waits, and takes no task.
    again = start(process_settings)
    again.wait_until(lambda: ReleaseOutdated.code in again.log)
    metrics = httpx2.get(f"http://127.0.0.1:{process_settings.worker_metrics_port}/metrics", trust_env=False).text
    assert "temporal_num_pollers" not in metrics
    with field.administrator() as administrator:
        administrator.execute("delete from okcm.schema_migration where version = 9002")
    again.wait_until(lambda: "worker ready" in again.log)


def test_worker_stops_within_its_grace_when_temporal_is_silent(start, process_settings):
    relay = Relay(f"postgresql://127.0.0.1:{process_settings.temporal_port}/")
    ports = {"temporal_port": urlsplit(relay.url).port, "shutdown_grace_seconds": 1.0}
    worker = start(process_settings.model_copy(update=ports))
    worker.wait_until(lambda: "worker ready" in worker.log)
    with relay.dropping():
        worker.process.terminate()
        began = time.monotonic()
        status = worker.process.wait(60)
        assert time.monotonic() - began < 15
    relay.close()
    assert (status, "worker did not stop in time" in worker.log) in {(0, False), (1, True)}


def test_worker_without_its_secrets_does_not_start_and_names_the_remedy(start, settings, tmp_path):
    worker = start(settings.model_copy(update={"secrets_dir": tmp_path / "nothing"}))
    assert worker.process.wait(60) == 1
    assert "settings_invalid" in worker.log
    assert "hint:" in worker.log
    assert "Traceback" not in worker.log
