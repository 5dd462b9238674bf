"""Real servers in a dedicated folder, a worker that kills processes, and a receiver of notifications."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from config import secrets
from config.secrets import Role, database_credentials, ensure_secrets, read_secret
from config.settings import Settings
from core import names as ids
from core.errors.platform import ComponentFailed, DatabaseUnavailable, TemporalUnavailable
from core.notifications import NotificationKind
from core.tenants.lifecycle import State
from core.tenants.provisioning import EventKind, MarketplaceEvent, StepState
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.provisioning import StepRow
from database.schema.setup import prepare_database
from database.services.repository import ServiceRequestRow
from database.tenants import TenantRow
from devstack.servers.base import Server
from devstack.servers.openbao import OpenBaoServer
from devstack.servers.postgres import PostgresServer
from devstack.servers.temporal import TemporalServer
from openkcm.contract.audit_events import verify_chain
from openkcm.contract.services import ServiceKind
from tests.activities.services.connecting import csr_of
from tests.concurrency import wait_until
from tests.e2e.receivers import CallbackReceiver
from tests.ports import free_port
from vault.auth.client import VaultSession
from vault.pki.certificates import hex_serial
from workflows.client.updates import OperationTimeout
from workflows.client.workflow_client import WorkflowClient

REGION = "eu-west-1"
_HERE = Path(__file__).parent
_TIMEOUT_SECONDS = 180
_TRIES = 20
_STOP_SECONDS = 60


class Field:
    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self.receiver = CallbackReceiver()
        postgres, vault, temporal, ui, server_metrics, metrics = ports
        self.settings = Settings(
            state_dir=folder,
            postgres_port=postgres,
            vault_port=vault,
            temporal_port=temporal,
            temporal_ui_port=ui,
            temporal_metrics_port=server_metrics,
            worker_metrics_port=metrics,
            callback_url=self.receiver.url,
        )
        self.servers: dict[str, Server] = {}
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        """The workers by the ports of their metrics."""
        self._plan: Path | None = None

    def start(self) -> None:
        settings = self.settings
        ensure_secrets(settings.secrets)
        self.servers = {
            "postgres": PostgresServer(self.folder, settings.postgres_port),
            "openbao": OpenBaoServer(self.folder, settings.vault_port, settings.secrets),
            "temporal": TemporalServer(
                self.folder, settings.temporal_port, settings.temporal_ui_port, settings.temporal_metrics_port
            ),
        }
        for server in self.servers.values():
            server.prepare()
            server.start()
        for server in self.servers.values():
            server.wait_ready(60)
        passwords, keys = database_credentials(settings.secrets)
        prepare_database(self.servers["postgres"].admin_conninfo, passwords=passwords, context_keys=keys)

    def run_worker(self, *plans: dict[str, Any]) -> None:
        """Start the worker with kill plans, executed in order, or with a plan that kills nothing."""
        self._write(plans)
        self._start_worker(self.settings.worker_metrics_port)

    def _start_worker(self, port: int) -> None:
        fields = self.settings.model_dump(exclude_none=True, exclude_unset=True) | {"worker_metrics_port": port}
        env = os.environ | {f"OPENKCM_{k.upper()}": str(v) for k, v in fields.items()}
        command = [sys.executable, str(_HERE / "killing_worker.py"), str(self._plan)]
        with self._worker_log.open("ab") as log:
            self._workers[port] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    @property
    def _worker_log(self) -> Path:
        return self.folder / "worker.log"

    @contextmanager
    def another_worker(self) -> Iterator[None]:
        """Run a second worker in the block, which continues the work of a killed one, as in production."""
        port, known = free_port(), self._starts()
        self._start_worker(port)
        try:
            wait_until(lambda: self._starts() > known, lambda: "the second worker does not start")
            yield
        finally:
            self._stop_worker(port)

    def _starts(self) -> int:
        """Return how often a worker became ready."""
        return self._worker_log.read_text(encoding="utf-8").count("worker ready")

    def set_plans(self, *plans: dict[str, Any]) -> None:
        """Replace the plans of the running worker, or start one."""
        worker = self._workers.get(self.settings.worker_metrics_port)
        if worker is None or worker.poll() is not None:
            self.run_worker(*plans)
        else:
            self._write(plans)

    def _write(self, plans: Sequence[dict[str, Any]]) -> None:
        self._plan = self.folder / "plan.json"
        harmless = {"tenant": "-", "activity": "-", "moment": "-", "pid": 0, "spent": str(self.folder / "spent")}
        draft = self._plan.with_suffix(".new")
        draft.write_text(json.dumps(plans or [harmless]), encoding="utf-8")
        draft.replace(self._plan)

    def stop_worker(self) -> None:
        for port in list(self._workers):
            self._stop_worker(port)

    def _stop_worker(self, port: int) -> None:
        worker = self._workers.pop(port)
        worker.terminate()
        try:
            worker.wait(_STOP_SECONDS)
        finally:
            worker.kill()  # no effect after its end; otherwise it would disturb later tests
            worker.wait()

    def restart_dead(self) -> None:
        """Restart every process that died."""
        for port, worker in self._workers.items():
            if worker.poll() is not None:
                self._start_worker(port)
        for server in self.servers.values():
            if not server.alive:
                server.start()

    def ask(
        self,
        what: Callable[[WorkflowClient], Coroutine[Any, Any, None]],
        before_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Call until it succeeds, and restart every process that dies meanwhile."""

        async def asked() -> None:
            settings = self.settings
            gateway = await WorkflowClient.connect(settings.temporal_address, settings.provisioning_slo_seconds)
            asking = asyncio.create_task(what(gateway))
            while not asking.done():
                before_restart()
                # Here, not in a thread of the loop: a server dies with the thread that started it.
                self.restart_dead()
                await asyncio.wait({asking}, timeout=0.05)
            asking.result()

        for _ in range(_TRIES):
            try:
                asyncio.run(asked())
            except TemporalUnavailable:
                self.wait_whole()
            except OperationTimeout:
                continue
            else:
                return
        raise AssertionError("the call did not succeed")

    def wait_whole(self) -> None:
        """Restart every process that died, or dies meanwhile, until all servers are ready."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            self.restart_dead()
            try:
                for server in self.servers.values():
                    server.wait_ready(_TIMEOUT_SECONDS)
            except ComponentFailed:
                assert time.monotonic() < deadline, "a server does not restart"
            else:
                return

    def pid_of(self, target: str) -> int:
        """Return the pid of a running process to kill; 0 means the worker itself, whichever pid it then has."""
        self.wait_whole()
        if target == "worker":
            return 0
        pid = self.servers[target].pid
        # An unknown pid must not be replaced by another number: -1 would kill every process.
        assert pid is not None
        return pid

    @contextmanager
    def database(self, role: Role) -> Iterator[Database]:
        folder = self.settings.secrets
        password, key = (read_secret(folder, name(role)) for name in (secrets.database_password, secrets.context_key))
        with closing(Database(self.settings.postgres_url, role, password, bytes.fromhex(key))) as database:
            yield database

    @contextmanager
    def tx(self, tenant_id: str, role: Role = Role.WORKER) -> Iterator[TenantTransaction]:
        """Yield one transaction, with all servers running."""
        self.wait_whole()
        with self.database(role) as database, database.tenant_tx(tenant_id) as tx:
            yield tx

    def activate(self, *tenant_ids: str) -> None:
        """Run the worker and provision the canary tenant and these tenants."""
        self.set_plans()
        self.wait_active(ids.CANARY_TENANT_ID)
        for tenant_id in tenant_ids:
            self.enable(tenant_id)
            self.wait_active(tenant_id)

    def enable(self, tenant_id: str) -> None:
        """Accept an event as the marketplace does, and start its workflow."""
        event = MarketplaceEvent(
            event_id=f"event-{tenant_id}",
            kind=EventKind.SERVICE_ENABLED,
            tenant_id=tenant_id,
            organization="ACME Corporation",
            region=REGION,
            timestamp="2026-01-15T10:30:00Z",  # type: ignore[arg-type] # parsed by the model
        )
        with self.tx(tenant_id, Role.MARKETPLACE) as tx:
            tx.tenants.request(event)
            tx.inbox.accept(event)
        self.ask(lambda gateway: gateway.enable(tenant_id, REGION, event.event_id))

    def request_service(self, tenant_id: str, service: str, request_id: str, kind: ServiceKind) -> None:
        """Store a request with a new key, as `openkcmctl service connect` does."""
        csr = csr_of(ec.generate_private_key(ec.SECP256R1()))
        with self.tx(tenant_id, Role.OPERATOR) as tx:
            tx.services.request(ServiceRequestRow(request_id, service, kind, csr))

    def wait_active(self, tenant_id: str) -> None:
        """Restart dead processes until the tenant is active."""
        self._wait(tenant_id, lambda row, _steps: row.state is State.ACTIVE)

    def wait_announced(self, tenant_id: str) -> None:
        """Restart dead processes until the tenant is active and all its steps are done."""
        self._wait(
            tenant_id,
            lambda row, steps: row.state is State.ACTIVE and all(step.state is StepState.DONE for step in steps),
        )

    def _wait(self, tenant_id: str, done: Callable[[TenantRow, Sequence[StepRow]], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        with self.database(Role.WORKER) as database:
            while time.monotonic() < deadline:
                self.restart_dead()
                try:
                    with database.tenant_tx(tenant_id) as tx:
                        row, steps = tx.tenants.get(), tx.steps.latest()
                except DatabaseUnavailable:
                    row, steps = None, ()
                if row is not None and done(row, steps):
                    return
                time.sleep(0.05)
        raise AssertionError(f"{tenant_id} did not become ready within {_TIMEOUT_SECONDS} s")

    def assert_nothing_twice(self, tenant_id: str) -> None:
        """Assert one L2, one CA, one route, no orphan, one notification by message id, and a complete chain."""
        # A server that was killed after its last call for this tenant may still be down.
        self.wait_whole()
        vault = VaultSession(self.settings.vault_url, Role.WORKER, read_secret(self.settings.secrets, "vault-worker"))
        expected = {ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id)}
        for name in expected:
            found = vault.read(f"transit/keys/{name}")
            assert found is not None, name
            assert found["latest_version"] == 1, name
        with self.tx(tenant_id) as tx:
            assert {key.name for key in tx.keys.all()} == expected
            authority, route = tx.certificates.authority(), tx.routes.get()
            records, announcements = tx.audit.records(), tx.outbox.all()
        assert route is not None
        assert authority is not None
        assert self._authorities_in_pki(vault, tenant_id) == [authority.serial]
        verify_chain(records)
        names = Counter((json.loads(r.record)["name"], json.loads(r.record)["subject"]) for r in records)
        assert set(names.values()) == {1}, names
        ready = [a.message_id for a, sent in announcements if a.kind is NotificationKind.READY and sent]
        taken = {one.headers["webhook-id"] for one in self.receiver.about(tenant_id, NotificationKind.READY)}
        assert taken == set(ready)
        assert len(ready) == 1

    def _authorities_in_pki(self, vault: VaultSession, tenant_id: str) -> list[str]:
        found = []
        for serial in vault.list("pki/certs"):
            answer = vault.read(f"pki/cert/{serial}")
            assert answer is not None
            certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
            if tenant_id in certificate.subject.rfc4514_string():
                found.append(hex_serial(certificate))
        return found

    def stop(self) -> None:
        self.stop_worker()
        for server in self.servers.values():
            server.stop()
        self.receiver.close()
