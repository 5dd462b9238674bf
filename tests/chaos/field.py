"""The battlefield: real servers in a folder of their own, a worker that shoots, and a receiver of announcements."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509

from config import secrets
from config.secrets import Role, ensure_secret, read_secret
from config.settings import Settings
from database.connection import Database
from database.interfaces import StepRow, TenantRow
from database.setup import prepare_database
from devstack.openbao import OpenBaoServer
from devstack.postgres import PostgresServer
from devstack.secrets import DATABASE_ROLES, ensure_secrets
from devstack.server import Server
from devstack.temporal import TemporalServer
from tenancy import ids
from tenancy.audit import verify_chain
from tenancy.errors import ComponentFailed, DatabaseUnavailable, TemporalUnavailable
from tenancy.events import AnnouncementKind, EventKind, MarketplaceEvent
from tenancy.lifecycle import State
from tenancy.provisioning import StepState
from vault.certificates import hex_serial
from vault.session import VaultSession
from workflows.gateway import Gateway, NotDoneInTime

REGION = "eu-west-1"
_HERE = Path(__file__).parent
_PATIENCE_SECONDS = 180
_TRIES = 20
_STOP_SECONDS = 60


class Receiver(ThreadingHTTPServer):
    """Takes announcements and counts how often each message id arrived."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.taken: Counter[tuple[str, str, str]] = Counter()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def ids_of(self, tenant_id: str, kind: AnnouncementKind) -> set[str]:
        return {mid for (tenant, what, mid) in self.taken if tenant == tenant_id and what.endswith(kind)}


class _Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, Receiver)
        self.server.taken[(event["subject"], event["type"], self.headers["webhook-id"])] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        """Stay quiet."""


class Field:
    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self.receiver = Receiver()
        postgres, vault, temporal, ui, server_metrics, metrics = ports
        self.settings = Settings(
            state_dir=folder,
            postgres_port=postgres,
            vault_port=vault,
            temporal_port=temporal,
            temporal_ui_port=ui,
            temporal_metrics_port=server_metrics,
            worker_metrics_port=metrics,
            callback_url=f"http://127.0.0.1:{self.receiver.server_address[1]}/announcements",
        )
        self.servers: dict[str, Server] = {}
        self._worker: subprocess.Popen[bytes] | None = None
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
        self._prepare_database()

    def _prepare_database(self) -> None:
        folder = self.settings.secrets
        postgres = self.servers["postgres"]
        assert isinstance(postgres, PostgresServer)
        roles = DATABASE_ROLES
        prepare_database(
            postgres.admin_conninfo,
            passwords={r: ensure_secret(folder, secrets.database_password(r)) for r in ("migrator", *roles)},
            context_keys={r: bytes.fromhex(ensure_secret(folder, secrets.context_key(r))) for r in roles},
        )

    def run_worker(self, *plans: dict[str, Any]) -> None:
        """Start the worker, with plans to shoot by one after the other, or a harmless one."""
        self._write(plans)
        fields = self.settings.model_dump(exclude_none=True, exclude_unset=True)
        env = os.environ | {f"OPENKCM_{k.upper()}": str(v) for k, v in fields.items()}
        command = [sys.executable, str(_HERE / "killing_worker.py"), str(self._plan)]
        with (self.folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    def aim(self, *plans: dict[str, Any]) -> None:
        """Give the worker that runs other plans, or start one."""
        if self._worker is None or self._worker.poll() is not None:
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
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.terminate()
            try:
                worker.wait(_STOP_SECONDS)
            finally:
                worker.kill()  # nothing to one that has ended; another field's tests are not to pay for it
                worker.wait()

    def heal(self) -> None:
        """Start again whatever died."""
        if self._worker is not None and self._worker.poll() is not None:
            self.run_worker(*(json.loads(self._plan.read_text(encoding="utf-8")) if self._plan else ()))
        for server in self.servers.values():
            if not server.alive:
                server.start()

    def ask(
        self, what: Callable[[Gateway], Coroutine[Any, Any, None]], before_healing: Callable[[], None] = lambda: None
    ) -> None:
        """Ask as somebody would who does not give up, starting again whatever died meanwhile."""

        async def asked() -> None:
            gateway = await Gateway.connect(self.settings.temporal_address, self.settings.promise_seconds)
            asking = asyncio.create_task(what(gateway))
            while not asking.done():
                before_healing()
                # Here, not in a thread of the loop: a server dies with the thread that started it.
                self.heal()
                await asyncio.wait({asking}, timeout=0.05)
            asking.result()

        for _ in range(_TRIES):
            try:
                asyncio.run(asked())
            except TemporalUnavailable:
                self.wait_whole()
            except NotDoneInTime:
                continue
            else:
                return
        raise AssertionError("it was never done")

    def wait_whole(self) -> None:
        """Start again whatever died, or dies while this waits, until all servers serve."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self.heal()
            try:
                for server in self.servers.values():
                    server.wait_ready(_PATIENCE_SECONDS)
            except ComponentFailed:
                assert time.monotonic() < deadline, "a server does not come back"
            else:
                return

    def pid_of(self, target: str) -> int:
        """Return whom to shoot, alive and ready; 0 is the worker itself, whoever that then is."""
        self.wait_whole()
        if target == "worker":
            return 0
        pid = self.servers[target].pid
        # No other number may stand in for a pid that is not known: -1 would be every process there is.
        assert pid is not None
        return pid

    def database(self, role: Role) -> Database:
        folder = self.settings.secrets
        return Database(
            self.settings.postgres_url,
            role,
            read_secret(folder, secrets.database_password(role)),
            bytes.fromhex(read_secret(folder, secrets.context_key(role))),
        )

    def enable(self, marketplace: Database, tenant_id: str) -> None:
        """Accept an event as the marketplace does and hand it to Temporal."""
        event = MarketplaceEvent(
            event_id=f"event-{tenant_id}",
            kind=EventKind.SERVICE_ENABLED,
            tenant_id=tenant_id,
            organization="ACME Corporation",
            region=REGION,
            timestamp="2026-01-15T10:30:00Z",  # type: ignore[arg-type] # parsed by the model
        )
        with marketplace.tenant_tx(tenant_id) as tx:
            tx.tenants.request(event)
            tx.inbox.accept(event)
        asyncio.run(self._start(tenant_id, event.event_id))

    async def _start(self, tenant_id: str, event_id: str) -> None:
        gateway = await Gateway.connect(self.settings.temporal_address, self.settings.promise_seconds)
        await gateway.enable(tenant_id, REGION, event_id)

    def wait_active(self, database: Database, tenant_id: str) -> State:
        """Heal what dies until the tenant is active."""
        return self._wait(database, tenant_id, lambda row, _steps: row.state is State.ACTIVE)

    def wait_announced(self, database: Database, tenant_id: str) -> State:
        """Heal what dies until the tenant is active and its steps are all done."""
        return self._wait(
            database,
            tenant_id,
            lambda row, steps: row.state is State.ACTIVE and all(step.state is StepState.DONE for step in steps),
        )

    def _wait(self, database: Database, tenant_id: str, done: Callable[[TenantRow, Sequence[StepRow]], bool]) -> State:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self.heal()
            try:
                with database.tenant_tx(tenant_id) as tx:
                    row, steps = tx.tenants.get(), tx.steps.latest()
            except DatabaseUnavailable:
                row, steps = None, ()
            if row is not None and done(row, steps):
                return row.state
            time.sleep(0.05)
        raise AssertionError(f"{tenant_id} did not become ready within {_PATIENCE_SECONDS} s")

    def assert_nothing_twice(self, database: Database, tenant_id: str) -> None:
        """One L2, one CA, one route, no orphan, one announcement by message id, a chain without a gap."""
        # A server shot after its last call for this tenant may still be down: the tenant did not need it, we do.
        self.wait_whole()
        vault = VaultSession(self.settings.vault_url, Role.WORKER, read_secret(self.settings.secrets, "vault-worker"))
        expected = {ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id)}
        for name in expected:
            found = vault.read(f"transit/keys/{name}")
            assert found is not None, name
            assert found["latest_version"] == 1, name
        with database.tenant_tx(tenant_id) as tx:
            assert {key.name for key in tx.keys.all()} == expected
            authority, route = tx.certificates.authority(), tx.routes.get()
            records, announcements = tx.audit.records(), tx.outbox.all()
        assert route is not None
        assert authority is not None
        assert self._authorities_in_pki(vault, tenant_id) == [authority.serial]
        verify_chain(records)
        names = Counter((json.loads(r.record)["name"], json.loads(r.record)["subject"]) for r in records)
        assert set(names.values()) == {1}, names
        ready = [a.message_id for a, sent in announcements if a.kind is AnnouncementKind.READY and sent]
        assert self.receiver.ids_of(tenant_id, AnnouncementKind.READY) == set(ready)
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
        self.receiver.shutdown()
        self.receiver.server_close()
