"""The marketplace API on a real socket with a real PostgreSQL; only the workflow client may be a fake."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
import pytest
import uvicorn
from standardwebhooks import Webhook

from core.errors.platform import TemporalUnavailable
from core.errors.tenants import TenantUnknown
from core.tracing.spans import Tracer
from marketplace.app import EndpointConfig, create_app
from marketplace.enrolment.jwks import Issuers
from marketplace.enrolment.routes import EnrolmentConfig
from openkcm.contract.client_files import Offer as Addresses
from tests.concurrency import wait_until_async
from workflows.client.workflow_client import WorkflowClient

CURRENT = "whsec_" + "Q3VycmVudCBzZWNyZXQgb2YgdGhlIHRlc3Rz"
PREVIOUS = "whsec_" + "UHJldmlvdXMgc2VjcmV0IG9mIHRoZSB0ZXN0"
TOKEN = "token-of-the-marketplace"
OFFER = EndpointConfig(
    webhook_secrets=(CURRENT, PREVIOUS),
    tokens=(TOKEN,),
    regions=("eu-west-1", "eu-central-1"),
    base_url="https://cmk.openkcm.io",
    body_limit=65536,
    enrolment=EnrolmentConfig(
        "https://enrol.openkcm.io",
        ("eu-west-1", "eu-central-1"),
        Addresses("https://localhost:18443", "localhost:15696"),
        Issuers({}),
    ),
)


def an_event(**changes: Any) -> dict[str, Any]:
    seed = {
        "event": "service_enabled",
        "customer": "acme-corp-12345",
        "service": "openkcm",
        "region": "eu-west-1",
        "timestamp": "2026-01-15T10:30:00Z",
        "organization": "ACME Corporation",
    }
    return {name: value for name, value in (seed | changes).items() if value is not None}


def signed(body: bytes, event_id: str | None = None, secret: str = CURRENT, at: datetime | None = None) -> dict:
    event_id = event_id or f"msg_{secrets.token_hex(8)}"
    at = at or datetime.now(UTC)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, at, body.decode("utf-8", "replace")),
        "content-type": "application/json",
    }


async def streamed(body: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), 65536):
        yield body[begin : begin + 65536]


class RecordingWorkflowClient:
    """Fake workflow client for tests of HTTP or the inbox; it rejects calls as the real one does."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str]] = []
        self.disabled: list[tuple[str, str]] = []
        self.discovered: list[tuple[str, str, str]] = []
        self.asked: list[tuple[str, str, str, str]] = []
        self.connect: Callable[[str, str, str], None] = lambda *_asked: None
        """Called when a service is to be connected, with tenant, service and request; may raise."""
        self.down = False
        self.broken_for: set[str] = set()
        self.broken_events: set[str] = set()
        self.slow = lambda: 0.0
        """Returns how many seconds the next call takes."""
        self.order: list[tuple[str, str]] = []
        """(tenant, event) of each enable and disable, in the order in which they arrived first."""

    def _arrive(self, tenant_id: str, event_id: str) -> None:
        if event_id in self.broken_events:
            raise RuntimeError("the workflow rejects this event")
        if (tenant_id, event_id) not in self.order:  # the workflow ignores repeated events
            self.order.append((tenant_id, event_id))

    async def _reach(self) -> None:
        await asyncio.sleep(self.slow())
        if self.down:
            raise TemporalUnavailable

    async def enable(self, tenant_id: str, region: str, event_id: str) -> None:
        await self._reach()
        if tenant_id in self.broken_for:
            raise RuntimeError("not a workflow id")
        self._arrive(tenant_id, event_id)
        self.taken.append((tenant_id, region, event_id))

    async def disable(self, tenant_id: str, event_id: str) -> None:
        await self._reach()
        if tenant_id not in {taken for taken, _, _ in self.taken}:
            raise TenantUnknown
        self._arrive(tenant_id, event_id)
        self.disabled.append((tenant_id, event_id))

    async def discover_service(self, tenant_id: str, region: str, service: str) -> None:
        await self._reach()
        self.discovered.append((tenant_id, region, service))

    async def connect_service(self, tenant_id: str, region: str, service: str, request_id: str) -> None:
        await self._reach()
        self.asked.append((tenant_id, region, service, request_id))
        await asyncio.to_thread(self.connect, tenant_id, service, request_id)


class Endpoint:
    def __init__(self, url: str, field, workflow_client) -> None:
        self.url, self.field, self.workflow_client = url, field, workflow_client
        self.client = httpx2.AsyncClient(base_url=url, timeout=30, limits=httpx2.Limits(max_connections=50))

    async def post(self, event: dict | bytes, headers: dict | None = None, **how: Any) -> httpx2.Response:
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return await self.client.post("/v1/events", content=body, headers=signed(body, **how) | (headers or {}))

    async def enable(self, event_id: str | None = None, *, left: int = 0, **changes: Any) -> None:
        """Post an event that enables a tenant, and wait until its workflow has it and `left` events are waiting."""
        await self.post(an_event(**changes), event_id=event_id)
        await wait_until_async(lambda: self.waiting() == left)

    async def show(self, tenant_id: str, token: str = TOKEN) -> httpx2.Response:
        return await self.client.get(f"/v1/tenants/{tenant_id}", headers={"authorization": f"Bearer {token}"})

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator of the database."""
        with self.field.administrator() as administrator:
            cursor = administrator.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def count(self, table: str) -> int:
        [(count,)] = self.execute(f"select count(*) from okcm.{table}")
        return count

    def waiting(self) -> int:
        return self.count("marketplace_event where started_at is null")

    def assert_nothing_stored(self) -> None:
        assert (self.count("tenant"), self.count("marketplace_event"), self.count("audit_event")) == (0, 0, 0)
        assert getattr(self.workflow_client, "taken", []) == []


def assert_refused(answer, status: int, code: str, case: str = "") -> None:
    assert answer.status_code == status, (case, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code), case
    assert problem["hint"]


@asynccontextmanager
async def serving(app: Any, lifespan: Literal["on", "off"] = "off") -> AsyncIterator[str]:
    """Serve an application on a port that the kernel chooses, and yield its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, ws="none", lifespan=lifespan)
    )
    task = asyncio.create_task(server.serve())
    await wait_until_async(lambda: server.started or task.done())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running(
    field, workflow_client: WorkflowClient, offer: EndpointConfig = OFFER, tracer: Tracer | None = None
) -> AsyncIterator[Endpoint]:
    async with serving(create_app(field.open("marketplace", max_size=12), workflow_client, offer, tracer), "on") as url:
        endpoint = Endpoint(url, field, workflow_client)
        try:
            yield endpoint
        finally:
            await endpoint.client.aclose()


@pytest.fixture(autouse=True)
def logs(standard_logs: None) -> None:
    """Let every test capture all logs."""


@pytest.fixture
def workflow_client() -> RecordingWorkflowClient:
    return RecordingWorkflowClient()


@pytest.fixture
async def endpoint(field, workflow_client) -> AsyncIterator[Endpoint]:
    async with running(field, workflow_client) as started:
        yield started
