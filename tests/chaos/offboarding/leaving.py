"""A tenant that is offboarded, and the assertions afterwards."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from config.secrets import Role
from core import names as ids
from core.errors.keys import KeyUnavailable
from core.errors.platform import DatabaseUnavailable
from core.errors.tenants import TenantUnknown
from core.messages.tenants import OffboardRequest
from core.tenants.lifecycle import State
from core.tenants.offboarding import KEPT, offboarding_number
from database.offboarding import ErasureCertificateRow
from devstack.servers.postgres import PostgresServer
from openkcm.contract.audit_events import AuditName
from openkcm.contract.services import ServiceKind
from openkcm.verification.erasure_certificate import ErasureStatement, shred_message, statement_text
from tests.activities.offboarding.test_destruction import verified
from tests.activities.services.many_services import add_services
from tests.chaos.audited import assert_recorded_once, whole_stream
from tests.chaos.field import REGION, Field
from tests.chaos.rotation.rotating import adapters
from tests.e2e.isolation.test_traces import payloads_of
from vault.transit.audit_signer import TransitAuditSigner
from worker.payload_codec import ENCODING
from workflows.client.connection import connect_client
from workflows.client.updates import UpdateRejected

_TIMEOUT_SECONDS = 600
"""A worker that is killed in every step restarts a dozen times, and each start may take a minute on a busy machine."""
_POLL_SECONDS = 0.2
"""Each poll opens a connection to each server."""
_NAMES = (ids.l2_key, ids.ca_key, ids.payload_key)


@dataclass
class OffboardedTenant:
    """The tenant, with a caller that retries until it succeeds."""

    field: Field
    tenant_id: str
    service: str = "ledger"
    services: int = 1
    restored: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(name(self.tenant_id) for name in _NAMES)

    def __post_init__(self) -> None:
        """Provision the tenant and connect a service, so that it has a workflow, a key and a certificate."""
        self.field.activate(self.tenant_id)
        self.field.request_service(self.tenant_id, self.service, "request-1", ServiceKind.MICROSERVICE)
        self.field.ask(lambda gateway: gateway.connect_service(self.tenant_id, REGION, self.service, "request-1"))

    def add_services(self, number: int) -> None:
        """Connect more services, as copies of the first, without workflows."""
        postgres = self.field.servers["postgres"]
        assert isinstance(postgres, PostgresServer)
        with psycopg.connect(postgres.admin_conninfo, autocommit=True) as administrator:
            add_services(administrator, self.tenant_id, number, self.service)
        self.services += number

    def offboard(self, request: OffboardRequest) -> None:
        """Offboard. A repeated request, after a lost response, may find that the offboarding is complete."""
        try:
            self.field.ask(lambda gateway: gateway.offboard(self.tenant_id, request))
        except (TenantUnknown, UpdateRejected):
            assert self.state() in {State.LEAVING, State.OFFBOARDED}

    def restore(self) -> None:
        """Restore. A repeated request, after a lost response, may find that the tenant is restored."""
        try:
            self.field.ask(lambda gateway: gateway.restore(self.tenant_id))
        except UpdateRejected:
            self.assert_is(State.ACTIVE)
        self.restored += 1

    def state(self) -> State | None:
        """Return the recorded state; None while the database is down."""
        with self.field.database(Role.WORKER) as database:
            try:
                with database.tenant_tx(self.tenant_id) as tx:
                    row = tx.tenants.get()
            except DatabaseUnavailable:
                return None
        assert row is not None
        return row.state

    def assert_is(self, state: State) -> None:
        self.field.wait_whole()
        assert self.state() is state

    def wait_offboarded(self) -> None:
        """Restart dead processes until the tenant is offboarded and none of its workflows runs."""
        self.wait_last_state()
        self._wait(lambda: not asyncio.run(self._running()))

    def wait_last_state(self) -> None:
        """Restart dead processes until the tenant is offboarded."""
        self._wait(lambda: self.state() is State.OFFBOARDED)

    def _wait(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            self.field.wait_whole()
            if true():
                return
            assert time.monotonic() < deadline, f"{self.tenant_id} is {self.state()}"
            time.sleep(_POLL_SECONDS)

    async def _running(self) -> list[str]:
        client = await connect_client(self.field.settings.temporal_address)
        query = f"TenantId = '{self.tenant_id}' and ExecutionStatus = 'Running'"
        return [run.id async for run in client.list_workflows(query)]

    # ── what still exists ───────────────────────────────────────────────────────────────────────────────────

    def fingerprints(self) -> dict[str, Any]:
        """Return the key server's record of each existing key of the tenant."""
        with adapters(self.field) as parts:
            records = {name: parts.vault.read(f"transit/keys/{name}") for name in self.keys}
        return {name: record["keys"] for name, record in records.items() if record is not None}

    def assert_offboardings_recorded_once(self) -> None:
        """Assert that each offboarding and each restore is recorded exactly once, despite repetitions."""
        with adapters(self.field) as parts:
            names = Counter(record["name"] for record in whole_stream(parts.database, self.tenant_id))
        assert (names[AuditName.LEAVING_BEGUN], names[AuditName.RESTORED]) == (self.restored, self.restored)
        assert not names[AuditName.DESTRUCTION_BEGUN]

    def assert_erased(self) -> None:
        """Assert that only the data to be kept remains, and that the certificate states it."""
        self.field.wait_whole()
        assert self.fingerprints() == {}
        left = self._tables() - KEPT.keys()
        assert left <= {"outbox"}, left
        asyncio.run(self._assert_payloads_undecodable())
        with adapters(self.field) as parts:
            with parts.database.tenant_tx(self.tenant_id) as tx:
                row, certificate, announced = tx.tenants.get(), tx.leaving.certificate(), tx.outbox.all()
            assert row is not None
            assert (row.state, row.organization) == (State.OFFBOARDED, "(erased)")
            self._assert_certified(certificate, TransitAuditSigner(parts.vault).public_keys())
            records = whole_stream(parts.database, self.tenant_id)
        assert {message.kind for message, _ in announced} <= {"offboarded"}
        assert certificate is not None
        statement = ErasureStatement.model_validate_json(certificate.statement)
        after = [record["name"] for record in records[statement.audit_seq :]]
        assert after == [AuditName.SHRED_CERTIFIED, AuditName.OFFBOARDED, AuditName.ANNOUNCED], after
        assert_recorded_once(records, f"offboard-{offboarding_number(statement.grace_began_at)}")
        destroyed = [(r["subject"], r["outcome"]) for r in records if r["name"] == AuditName.KEY_DESTROYED]
        assert destroyed == [
            (subject, outcome) for subject in ("service keys", *self.keys) for outcome in ("intended", "success")
        ]

    def _assert_certified(self, certificate: ErasureCertificateRow | None, public_keys: dict[str, str]) -> None:
        assert certificate is not None
        assert verified(
            public_keys[certificate.key], certificate.signature, shred_message(self.tenant_id, certificate.statement)
        )
        statement = ErasureStatement.model_validate_json(certificate.statement)
        assert statement_text(statement) == certificate.statement
        assert Counter(one.kind for one in statement.destroyed) == {
            **dict.fromkeys(("L2 tenant key", "certificate authority key", "payload key"), 1),
            **dict.fromkeys(("service certificate", "service key"), self.services),
        }
        assert {table: number for table, number in statement.erased.items() if table.startswith("service")} == {
            **dict.fromkeys(("service", "service_certificate", "service_key"), self.services),
            "service_request": 1,
        }

    def _tables(self) -> set[str]:
        """Return the tables that have a row of the tenant, as seen by the database's owner."""
        postgres = self.field.servers["postgres"]
        assert isinstance(postgres, PostgresServer)
        with psycopg.connect(postgres.admin_conninfo) as owner:
            tables = owner.execute(
                "select relname from pg_class join pg_attribute on attrelid = pg_class.oid"
                " where relnamespace = 'okcm'::regnamespace and relkind in ('r', 'p') and not relispartition"
                " and attname = 'tenant_id'"
            ).fetchall()
            assert len(tables) > len(KEPT)
            found = sql.SQL("select 1 from okcm.{} where tenant_id = %s limit 1")
            return {
                name
                for (name,) in tables
                if owner.execute(found.format(sql.Identifier(name)), [self.tenant_id]).fetchall()
            }

    async def _assert_payloads_undecodable(self) -> None:
        """Assert that only workflow payloads of the offboarding decode, which the platform's key encrypts."""
        client = await connect_client(self.field.settings.temporal_address)
        query = f"TenantId = '{self.tenant_id}'"
        histories = [(h.workflow_id, h) async for h in client.list_workflows(query).map_histories()]
        with adapters(self.field) as parts:
            parts.keyring.open_platform_key()
            codec = parts.converter.payload_codec
            assert codec is not None
            undecodable = 0
            for payload in payloads_of(histories):
                if payload.metadata.get("encoding") != ENCODING:
                    continue
                if payload.metadata["key"] != ids.payload_key(self.tenant_id).encode():
                    await codec.decode([payload])
                    continue
                with pytest.raises(KeyUnavailable):
                    await codec.decode([payload])
                undecodable += 1
        assert undecodable > 5
