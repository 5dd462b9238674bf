"""Heartbeats are collected, written in one transaction per tenant, kept while the database is down, and bounded."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from core.errors.platform import DatabaseRefused, DatabaseUnavailable
from core.errors.requests import TooManyRequests
from core.errors.services import InvalidRequest
from core.names import l2_key
from core.tenants.lifecycle import State
from crypto_service.https.heartbeats import BufferedHeartbeats
from crypto_service.https.schemas import HeartbeatRequest, ReportedBackfill, ReportedUsage, parse
from crypto_service.interfaces import ClientIdentity
from database.services.agents import BackfillRow, HeartbeatRow, ProtectionUseRow
from openkcm.contract.protected_fields import Backfill
from openkcm.contract.services import OTHER_PLACES
from openkcm.errors import OpenKcmError
from tests.crypto_service.core.world import Clock, CountingExecutor

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@dataclass
class Tables:
    """A database in memory that can be unavailable; `transactions` counts its transactions."""

    serials: dict[str, str] = field(default_factory=lambda: {"orders": "1a"})
    contacts: list[HeartbeatRow] = field(default_factory=list)
    uses: list[ProtectionUseRow] = field(default_factory=list)
    backfills: list[BackfillRow] = field(default_factory=list)
    refusal: OpenKcmError | None = None
    transactions: int = 0

    @contextmanager
    def tenant_tx(self, _tenant_id: str) -> Iterator["Tables"]:
        self.transactions += 1
        if self.refusal is not None:
            raise self.refusal
        yield self

    @property
    def agents(self) -> "Tables":
        return self

    def note(self, contacts: list[HeartbeatRow], uses: list[ProtectionUseRow]) -> None:
        self.contacts += contacts
        self.uses += uses

    def note_backfills(self, backfills: list[BackfillRow]) -> None:
        self.backfills += backfills

    def newest(self, services: list[str]) -> dict[str, str]:
        return {service: self.serials[service] for service in services if service in self.serials}


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def heartbeats(tables: Tables, clock: Clock) -> BufferedHeartbeats:
    return BufferedHeartbeats(tables, CountingExecutor(), lambda: NOW, clock)


def a_caller(serial: str = "1a", service: str = "orders", tenant_id: str = "acme") -> ClientIdentity:
    return ClientIdentity(tenant_id, service, l2_key(tenant_id), "eu-west-1", serial, State.ACTIVE)


def a_heartbeat(instance: str = "host-1", *uses: ReportedUsage, problem: str | None = None) -> HeartbeatRequest:
    ends = NOW + timedelta(hours=72)
    return HeartbeatRequest(instance=instance, agent_version="0.1.0", not_after=ends, problem=problem, uses=list(uses))


def a_use(place: str = "public.customers.ssn") -> ReportedUsage:
    return ReportedUsage(place=place, operations=10, bytes=320, microseconds=7, requests=4, request_microseconds=900)


async def test_many_heartbeats_are_one_transaction_of_their_tenant(heartbeats, tables):
    for number in range(3):
        assert await heartbeats.note(a_caller(), a_heartbeat(f"host-{number}", a_use())) is False
    await heartbeats.note(a_caller(), a_heartbeat("host-0", problem="reload_failed"))
    transactions_before = tables.transactions
    await heartbeats.write()
    assert tables.transactions == transactions_before + 1
    assert [(row.instance, row.problem, row.last_contact_at) for row in tables.contacts] == [
        ("host-0", "reload_failed", NOW),
        ("host-1", None, NOW),
        ("host-2", None, NOW),
    ]
    assert [(row.service, row.place, row.operations, row.request_microseconds) for row in tables.uses] == [
        ("orders", "public.customers.ssn", 30, 2700)
    ]
    await heartbeats.write()
    assert tables.transactions == transactions_before + 1


async def test_newest_certificate_is_cached_after_a_write(heartbeats, tables, clock):
    assert await heartbeats.note(a_caller(), a_heartbeat()) is False
    tables.serials["orders"] = "2b"
    await heartbeats.write()
    transactions_before = tables.transactions
    assert await heartbeats.note(a_caller(), a_heartbeat()) is True
    assert await heartbeats.note(a_caller("2b"), a_heartbeat()) is False
    assert tables.transactions == transactions_before
    clock.now += 91
    assert await heartbeats.note(a_caller("2b"), a_heartbeat()) is False
    assert tables.transactions == transactions_before + 1


async def test_heartbeats_are_kept_while_the_database_is_unavailable(heartbeats, tables):
    await heartbeats.note(a_caller(), a_heartbeat("host-1", a_use(), problem="reload_failed"))
    tables.refusal = DatabaseUnavailable()
    await heartbeats.write()
    await heartbeats.note(a_caller(), a_heartbeat("host-1", a_use()))
    await heartbeats.write()
    tables.refusal = None
    await heartbeats.write()
    assert [(row.instance, row.problem) for row in tables.contacts] == [("host-1", None)]
    assert [row.operations for row in tables.uses] == [20]


def a_backfill(place: str, done: int, state: Backfill = Backfill.RUNNING) -> ReportedBackfill:
    return ReportedBackfill(place=place, done=done, remaining=100 - done, state=state)


def of(*backfills: ReportedBackfill) -> HeartbeatRequest:
    return a_heartbeat().model_copy(update={"backfills": list(backfills)})


async def test_last_state_of_a_backfill_is_written_and_kept_while_the_database_is_unavailable(heartbeats, tables):
    await heartbeats.note(a_caller(), of(a_backfill("t.a", 10), a_backfill("t.b", 5)))
    await heartbeats.note(a_caller(), of(a_backfill("t.a", 60)))
    tables.refusal = DatabaseUnavailable()
    await heartbeats.write()
    await heartbeats.note(a_caller(), of(a_backfill("t.a", 100, Backfill.FINISHED)))
    tables.refusal = None
    await heartbeats.write()
    assert tables.backfills == [
        BackfillRow("orders", "t.a", 100, 0, Backfill.FINISHED, NOW),
        BackfillRow("orders", "t.b", 5, 95, Backfill.RUNNING, NOW),
    ]
    for first in range(0, 1500, 500):
        await heartbeats.note(a_caller(), of(*(a_backfill(f"t.{n}", 1) for n in range(first, first + 500))))
    tables.backfills.clear()
    await heartbeats.write()
    assert (len(tables.backfills), tables.backfills[-1].place) == (1000, "t.1499")


async def test_rejected_heartbeats_are_counted_and_unverifiable_ones_not_collected(heartbeats, tables):
    await heartbeats.note(a_caller(), a_heartbeat())
    tables.refusal = DatabaseRefused("22003")
    await heartbeats.write()
    tables.refusal = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):  # nothing is cached for this tenant
        await heartbeats.note(a_caller(tenant_id="beta"), a_heartbeat("host-1", a_use()))
    tables.refusal = None
    await heartbeats.write()
    assert (tables.contacts, tables.uses) == ([], [])
    await heartbeats.note(a_caller(tenant_id="beta"), a_heartbeat())
    await heartbeats.write()
    assert (heartbeats.totals.lost, len(tables.contacts)) == (1, 1)


async def test_memory_of_one_service_is_bounded(heartbeats, tables):
    for number in range(50):
        await heartbeats.note(a_caller(), a_heartbeat(f"host-{number}"))
    with pytest.raises(TooManyRequests):
        await heartbeats.note(a_caller(), a_heartbeat("one-more"))
    for first in range(0, 1500, 500):
        await heartbeats.note(a_caller(), a_heartbeat("host-1", *(a_use(f"t.{n}") for n in range(first, first + 500))))
    await heartbeats.write()
    places = {row.place: row.operations for row in tables.uses}
    assert len(places) == 1001
    assert places[OTHER_PLACES] == 5000


async def test_program_without_agent_is_not_recorded_as_agent(heartbeats, tables):
    program = parse(HeartbeatRequest, HeartbeatRequest(uses=[a_use()]).model_dump_json().encode())
    assert await heartbeats.note(a_caller(), program) is False
    await heartbeats.write()
    assert tables.contacts == []
    assert [(row.service, row.operations) for row in tables.uses] == [("orders", 10)]


@pytest.mark.parametrize("missing", ["instance", "agent_version", "not_after"])
def test_heartbeat_of_an_agent_requires_all_agent_fields(missing: str):
    message = {"instance": "a", "agent_version": "0.1.0", "not_after": "2026-01-01T00:00:00Z"}
    del message[missing]
    for document in (message, {"problem": "reload_failed"}):
        with pytest.raises(InvalidRequest, match="must all be present or absent"):
            parse(HeartbeatRequest, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ('"instance": "a b"', "instance is not valid"),
        ('"problem": "Not a code"', "problem is not valid"),
        ('"not_after": "2026-01-01T00:00:00"', "not_after must have a time zone"),
        ('"tenant_id": "beta"', "tenant_id is not a field of this operation"),
        ('"uses": [{"place": "a\\u0000b"}]', "uses.0.place is not valid"),
        ('"uses": [{"place": "a", "operations": -1}]', "uses.0.operations is not valid"),
        ('"uses": [{"place": "a", "operations": 1.5}]', "uses.0.operations must be a whole number"),
        ('"uses": [{"place": "a", "operations": "1"}]', "uses.0.operations must be a whole number"),
    ],
)
def test_error_of_an_invalid_heartbeat_names_the_field(changed: str, message: str):
    good = '"instance": "a", "agent_version": "0.1.0", "not_after": "2026-01-01T00:00:00Z"'
    with pytest.raises(InvalidRequest, match=message.replace(".", r"\.")):
        parse(HeartbeatRequest, f"{{{good}, {changed}}}".encode())
