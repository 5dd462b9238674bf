"""A running installation from a user's view: the `openkcm` command, the marketplace endpoint, and notifications."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psycopg
from standardwebhooks import Webhook
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from core import names as ids
from core.tenants.provisioning import EventKind, MarketplaceEvent
from database.connection.database import Database
from devstack.servers.postgres import PostgresServer
from openkcm.contract.audit_events import StoredRecord
from tests.commands import command_line
from tests.concurrency import wait_until
from tests.e2e.receivers import CallbackReceiver, Mailbox
from tests.ports import free_ports
from vault.auth.client import VaultSession
from worker import wiring
from worker.vault_login import open_vault
from workflows.client.connection import connect_client
from workflows.client.workflow_client import WorkflowClient

ROOT = Path(__file__).parents[2]
OPENKCM = str(Path(sys.executable).with_name("openkcm"))
REGION = "eu-west-1"
ACME = "acme-corp-12345"
SEED_EVENT = {
    "event": "service_enabled",
    "customer": ACME,
    "service": "openkcm",
    "region": REGION,
    "timestamp": "2026-01-15T10:30:00Z",
    "organization": "ACME Corporation",
}
TIMEOUT_SECONDS = 60


def enabling(tenant_id: str, organization: str) -> MarketplaceEvent:
    """Return the event of a customer that enables OpenKCM now."""
    return MarketplaceEvent(
        event_id=f"msg_{tenant_id}",
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=tenant_id,
        organization=organization,
        region=REGION,
        timestamp=datetime.now(UTC),
    )


def other_machine() -> dict[str, str]:
    """Return an environment without the settings of this installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENKCM_")}


def run_openkcm(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the root of the repository."""
    command = command_line(arguments)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON document of a command that must have succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def as_setting(value: Any) -> str:
    """Return a setting's value as the environment contains it."""
    return json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)


class Stack:
    """One installation in a dedicated folder, and the receivers of its notifications."""

    def __init__(self, folder: Path, **more: Any) -> None:
        """`more` contains additional settings."""
        self.callback = CallbackReceiver()
        postgres, vault, temporal, ui, temporal_metrics, marketplace, codec, metrics, *others = free_ports(
            13, neighbours=1
        )
        smtp, https, kmip, crypto_metrics, dashboard = others
        self.mailbox = Mailbox(smtp)
        self.settings = Settings(
            state_dir=folder / "state",
            postgres_port=postgres,
            vault_port=vault,
            temporal_port=temporal,
            temporal_ui_port=ui,
            temporal_metrics_port=temporal_metrics,
            marketplace_port=marketplace,
            codec_port=codec,
            worker_metrics_port=metrics,
            crypto_https_port=https,
            crypto_kmip_port=kmip,
            crypto_metrics_port=crypto_metrics,
            callback_url=self.callback.url,
            smtp_host="127.0.0.1",
            smtp_port=smtp,
            smtp_security="none",
            email_to="security@{tenant_id}.example",
            dashboard_port=dashboard,
            **more,
        )
        self._databases: dict[Role, Database] = {}

    # ── the command ──────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `openkcm` as a user would, with the settings in the environment."""
        fields = self.settings.model_dump(exclude_none=True, exclude_unset=True)
        settings = {f"OPENKCM_{name.upper()}": as_setting(value) for name, value in fields.items()}
        return run_openkcm(dict(os.environ) | settings, *arguments)

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run `openkcm` with `--json` and return its document; it must succeed."""
        return document_of(self.run(*arguments, "--json"))

    def services(self, tenant_id: str) -> dict[str, dict[str, Any]]:
        """Return the services of a tenant by name, as listed by the command."""
        return {row["service_id"]: row for row in self.command("service", "list", tenant_id)["services"]}

    def state(self, tenant_id: str) -> str:
        """Return the state of a tenant, as shown by the command."""
        return str(self.command("tenant", "show", tenant_id)["state"])

    def pids(self) -> dict[str, int]:
        """Return the processes of the stack by name."""
        return {one["name"]: one["pid"] for one in self.components() if one["pid"] is not None}

    def components(self) -> list[dict[str, Any]]:
        """Return the reports of all components, whether or not they work."""
        components: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)["components"]
        return components

    # ── the marketplace ──────────────────────────────────────────────────────────────────────────────────────────

    def secret(self, name: str) -> str:
        return read_secret(self.settings.secrets, name)

    def sign(self, body: bytes, message_id: str, at: datetime | None = None) -> dict[str, str]:
        """Return the headers of a delivery signed with the marketplace's secret."""
        at = at or datetime.now(UTC)
        signature = Webhook(self.secret(secrets.WEBHOOK_SECRETS)).sign(message_id, at, body.decode())
        stamp = str(int(at.timestamp()))
        return {"webhook-id": message_id, "webhook-timestamp": stamp, "webhook-signature": signature}

    def post(self, body: bytes, headers: dict[str, str]) -> httpx2.Response:
        return httpx2.post(f"{self.settings.marketplace_url}/v1/events", content=body, headers=headers, timeout=30)

    def click(self, message_id: str | None = None, **changed: str) -> httpx2.Response:
        """Send the seed's event with a signature; keyword arguments override its fields."""
        body = json.dumps(SEED_EVENT | changed).encode()
        return self.post(body, self.sign(body, message_id or f"msg_{uuid.uuid4().hex}"))

    def click_often(self, times: int, message_id: Callable[[int], str], **changed: str) -> list[httpx2.Response]:
        """Send `times` events at the same time."""
        with ThreadPoolExecutor(times) as pool:
            return list(pool.map(lambda n: self.click(message_id(n), **changed), range(times)))

    def enable(self, tenant_id: str, organization: str) -> dict[str, Any]:
        """Enable a tenant by an event and return its status once it is active."""
        answer = self.click(customer=tenant_id, organization=organization)
        assert answer.status_code == 202, answer.text
        return self.wait_for(tenant_id, "active")

    def status(self, tenant_id: str) -> httpx2.Response:
        token = {"authorization": f"Bearer {self.secret(secrets.MARKETPLACE_TOKEN)}"}
        return httpx2.get(f"{self.settings.marketplace_url}/v1/tenants/{tenant_id}", headers=token, timeout=10)

    def wait_for(self, tenant_id: str, state: str) -> dict[str, Any]:
        """Wait until the marketplace shows the tenant in `state`; servers may be down meanwhile."""
        return self._wait_status(tenant_id, lambda shown: shown.get("state") == state)

    def wait_announced(self, tenant_id: str) -> None:
        """Wait until both channels have the notification and the last step of provisioning is done."""
        wait_until(
            lambda: bool(self.callback.about(tenant_id, "ready") and self.mailbox.about(tenant_id, "is ready")),
            lambda: f"no ready message for {tenant_id}",
        )
        self._wait_status(tenant_id, lambda shown: {step["state"] for step in shown.get("steps", ())} == {"done"})

    def _wait_status(self, tenant_id: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        shown: dict[str, Any] = {}

        def is_reached() -> bool:
            with suppress(httpx2.TransportError):
                shown.update(self.status(tenant_id).json())
            return reached(shown)

        wait_until(is_reached, lambda: f"the status of {tenant_id} stays {shown}")
        return shown

    # ── internal state ───────────────────────────────────────────────────────────────────────────────────────────

    def database(self, role: Role = Role.WORKER) -> Database:
        if role not in self._databases:
            self._databases[role] = wiring.open_database(self.settings, role)
        return self._databases[role]

    def vault(self, role: Role = Role.WORKER) -> VaultSession:
        return open_vault(self.settings, role)

    def owner(self) -> psycopg.Connection:
        """Connect to the database as its administrator."""
        server = PostgresServer(self.settings.state_dir, self.settings.postgres_port)
        return psycopg.connect(server.admin_conninfo, autocommit=True)

    def rows(self) -> dict[str, str]:
        """Return the rows of all tenants as text, by table."""
        with self.owner() as owner:
            owner.execute("set row_security = off")
            tables = owner.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
            return {
                table: "\n".join(row for (row,) in owner.execute(f"select t::text from okcm.{table} t"))
                for (table,) in tables
            }

    def last_record(self, tenant_id: str) -> int:
        """Return the number of the last record in a tenant's audit stream."""
        with self.database().tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        return 0 if head is None else head.seq

    def stream(self, tenant_id: str, after: int = 0) -> list[StoredRecord]:
        """Return the records of a tenant's audit stream after the number `after`."""
        stored: list[StoredRecord] = []
        with self.database().tenant_tx(tenant_id) as tx:
            while page := tx.audit.records(after=stored[-1].seq if stored else after):
                stored += page
        return stored

    def events(self, tenant_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Return the fields of the records of `stream`."""
        return [json.loads(one.record) for one in self.stream(tenant_id, after)]

    async def temporal(self) -> Client:
        """Connect to Temporal without a payload key."""
        assert self.settings.temporal_address is not None
        return await Client.connect(self.settings.temporal_address, data_converter=pydantic_data_converter)

    def start_provisioning(self, tenant_id: str, organization: str, provisioning_slo_seconds: float) -> None:
        """Accept an event and start its workflow with another provisioning SLO than the marketplace uses."""
        event = enabling(tenant_id, organization)
        with self.database(Role.MARKETPLACE).tenant_tx(tenant_id) as tx:
            tx.tenants.request(event)
            tx.inbox.accept(event)
            tx.inbox.mark_started(event.event_id)

        async def start() -> None:
            await WorkflowClient(await self.temporal(), provisioning_slo_seconds).enable(
                tenant_id, REGION, event.event_id
            )

        asyncio.run(start())

    def workflows(self, query: str = "") -> list[tuple[str, str]]:
        """Return (workflow id, run id) of every run that Temporal lists."""

        async def listed() -> list[tuple[str, str]]:
            client = await connect_client(self.settings.temporal_address)
            return [(run.id, run.run_id) async for run in client.list_workflows(query)]

        return asyncio.run(listed())

    def runs_of(self, tenant_id: str) -> list[tuple[str, str]]:
        """Return the runs of one tenant, sorted, because Temporal's lists have no order."""
        return sorted(run for run in self.workflows() if ids.tenant_of_workflow(run[0]) == tenant_id)

    def close(self) -> None:
        for database in self._databases.values():
            database.close()
        self.mailbox.close()
        self.callback.close()
