"""Client of the marketplace API: signs and posts events, and reads the state of a tenant."""

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx2
from standardwebhooks.webhooks import Webhook

from config import secrets
from config.secrets import read_secret
from config.settings import Settings

_POLL_SECONDS = 0.4


class Marketplace:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._signer = Webhook(read_secret(settings.secrets, secrets.WEBHOOK_SECRETS))
        token = read_secret(settings.secrets, secrets.MARKETPLACE_TOKEN)
        self._client = httpx2.Client(
            base_url=settings.marketplace_url, headers={"authorization": f"Bearer {token}"}, timeout=30
        )

    def enable(self, tenant_id: str) -> float:
        """Send the event of one customer and return the time, in seconds since the epoch."""
        headers, body = self._event(tenant_id)
        sent = time.time()
        self._client.post("/v1/events", content=body, headers=headers).raise_for_status()
        return sent

    def enable_all(self, tenants: Sequence[str], at_once: int) -> float:
        """Send the events of all tenants with at most `at_once` in progress; return when the first was sent."""
        return asyncio.run(self._enable_all([self._event(tenant) for tenant in tenants], at_once))

    def ready_seconds(self, tenant_id: str, patience: float) -> float:
        """Wait until the tenant is active and return the duration that the product reports.

        Raises:
            TimeoutError: it is not active after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            # Wait first: an early status request takes CPU from the provisioning that it measures.
            time.sleep(_POLL_SECONDS)
            status: dict[str, Any] = self._client.get(f"/v1/tenants/{tenant_id}").raise_for_status().json()
            if status["state"] == "active":
                return float(status["ready_seconds"])
        raise TimeoutError(f"{tenant_id} is {status['state']} after {patience} s")

    def _event(self, tenant_id: str) -> tuple[dict[str, str], str]:
        now = datetime.now(UTC)
        body = json.dumps(
            {
                "event": "service_enabled",
                "customer": tenant_id,
                "service": "openkcm",
                "region": self._settings.regions[0],
                "timestamp": now.isoformat(),
                "organization": f"Organization of {tenant_id}",
            }
        )
        message = f"msg_{uuid4().hex}"
        headers = {
            "content-type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message, now, body),
        }
        return headers, body

    async def _enable_all(self, events: Sequence[tuple[dict[str, str], str]], at_once: int) -> float:
        limit = asyncio.Semaphore(at_once)
        limits = httpx2.Limits(max_connections=at_once)
        async with httpx2.AsyncClient(base_url=self._settings.marketplace_url, timeout=60, limits=limits) as client:

            async def post(headers: dict[str, str], body: str) -> None:
                async with limit:
                    (await client.post("/v1/events", content=body, headers=headers)).raise_for_status()

            first = time.time()
            await asyncio.gather(*(post(*event) for event in events))
        return first
