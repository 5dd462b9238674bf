"""Extreme values that programs of a customer report: the pages of the tenant remain readable."""

import asyncio
import json

import pytest

from core.names import l2_key
from core.tenants.lifecycle import State
from crypto_service.https.heartbeats import BufferedHeartbeats
from crypto_service.https.schemas import HeartbeatRequest, parse
from crypto_service.interfaces import ClientIdentity
from openkcm.contract.services import ServiceKind
from tests.crypto_service.core.world import CountingExecutor
from tests.dashboard.scene import ACME, Scene, shown, text

SERVICE = "customer-db"
LARGEST = 1_000_000_000_000
USE = ("operations", "bytes", "microseconds", "requests", "request_microseconds")


def report(scene: Scene, end: str, count: int) -> None:
    """Send a heartbeat with the largest number of places, each with the same counts."""
    places = [f"{number:0200}" for number in range(500)]
    message = {
        "instance": "db-1",
        "agent_version": "0.1.0",
        "not_after": end,
        "uses": [{"place": place} | dict.fromkeys(USE, count) for place in places],
        "backfills": [{"place": place, "done": count, "remaining": count, "state": "stopped"} for place in places],
    }
    caller = ClientIdentity(ACME, SERVICE, l2_key(ACME), "eu-west-1", "1a2b", State.ACTIVE)

    async def send() -> None:
        heartbeats = BufferedHeartbeats(scene.crypto, CountingExecutor())
        await heartbeats.note(caller, parse(HeartbeatRequest, json.dumps(message).encode()))
        await heartbeats.write()
        assert not heartbeats.totals.lost

    asyncio.run(send())


@pytest.mark.parametrize("end", ["2000-01-01T00:00:00-12:00", "2199-12-31T12:00:00-12:00"])
@pytest.mark.parametrize("count", [0, LARGEST])
def test_pages_show_the_extreme_values_that_a_heartbeat_may_have(scene: Scene, end: str, count: int) -> None:
    scene.tenant(State.ACTIVE)
    scene.service(SERVICE, ServiceKind.MONGODB, uses=3)
    report(scene, end, count)
    for page in ("overview", "services", "usage"):
        assert text(shown(page, scene.page_context()))
    assert "Agent connected" in text(shown("services", scene.page_context(), service=SERVICE))
