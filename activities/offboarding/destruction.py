"""The steps of OffboardTenant after the point of no return (docs/offboarding.md).

Each step is idempotent: destroyed keys and erased rows stay so, and counts and fingerprints are recorded before the
destruction. For each key the intention is recorded first and the end afterwards. The tenant's workflows end before the
key of their payloads is destroyed.

Each step sends heartbeats as long as the worker lives. So another worker soon continues the step of a dead one, and a
slow server makes no step start again.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import structlog
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.notifications import NotificationOutbox
from activities.runtime.audit_trail import Clock, append_audit_event, build_audit_event, is_recorded
from activities.runtime.step_progress import send_heartbeats
from core import names as ids
from core.errors.platform import DatabaseRefused
from core.errors.tenants import TenantUnknown
from core.messages.base import StepInput
from core.notifications import NotificationKind
from core.tenants.offboarding import KEPT, remains
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.offboarding import ErasureCertificateRow, KeyToDestroyRow
from openkcm.contract.audit_events import AuditName
from openkcm.verification.erasure_certificate import (
    Destroyed,
    DestroyedKind,
    ErasureStatement,
    shred_message,
    statement_text,
)
from vault.transit.audit_signer import TransitAuditSigner
from vault.transit.key_destruction import TenantKeyKind, TransitDestroyer

_SERVICES = 500
"""Services that one transaction reads or changes; it takes well below a second."""

_ROWS = 2000
"""Rows of a table that one transaction erases; it takes well below a second."""

_KINDS: Mapping[TenantKeyKind, DestroyedKind] = MappingProxyType(
    {
        TenantKeyKind.TENANT: "L2 tenant key",
        TenantKeyKind.AUTHORITY: "certificate authority key",
        TenantKeyKind.PAYLOAD: "payload key",
    }
)
_NAMES = MappingProxyType(
    {TenantKeyKind.TENANT: ids.l2_key, TenantKeyKind.AUTHORITY: ids.ca_key, TenantKeyKind.PAYLOAD: ids.payload_key}
)


class PayloadKeyring(Protocol):
    """The codec's keyring: after `forget` this process decrypts no payload of the tenant."""

    def forget(self, tenant_id: str) -> None: ...


class DestructionActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each dependency
        self,
        database: Database,
        destroyer: TransitDestroyer,
        keyring: PayloadKeyring,
        signer: TransitAuditSigner,
        outbox: NotificationOutbox,
        backup_retention_days: int | None,
        clock: Clock,
    ) -> None:
        self._database = database
        self._destroyer = destroyer
        self._keyring = keyring
        self._signer = signer
        self._outbox = outbox
        self._backup_days = backup_retention_days
        self._clock = clock

    @activity.defn(name="inventory-keys")
    @send_heartbeats()
    def take_stock(self, step: StepInput) -> None:
        """Step 4: record the fingerprints of all keys to be destroyed, while they still exist.

        Of the keys in the key server only recorded ones count: an unrecorded key of that name may belong to another
        user.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            recorded = [kind for kind in TenantKeyKind if is_recorded(tx, _NAMES[kind](step.tenant_id))]
        keys = [self._described(kind, step.tenant_id) for kind in recorded]
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.leaving.gather(keys)
        for services in self._services(step):
            with self._database.tenant_tx(step.tenant_id) as tx:
                tx.leaving.gather([*tx.leaving.unwrapped(services), *self._certificates(tx, services)])

    @activity.defn(name="disconnect-services")
    @send_heartbeats()
    def disconnect_services(self, step: StepInput) -> None:
        """Step 5: withdraw the route and revoke every certificate of every service."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            if tx.routes.withdraw():
                append_audit_event(tx, step, AuditName.ROUTE_WITHDRAWN, ids.l2_key(step.tenant_id))
        for services in self._services(step):
            with self._database.tenant_tx(step.tenant_id) as tx:
                disconnected = tx.services.disconnect_all(services)
                tx.audit.append_all(
                    [build_audit_event(step, AuditName.SERVICE_DISCONNECTED, service) for service in disconnected]
                )
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.leaving.destroyed("service certificate")

    @activity.defn(name="destroy-service-keys")
    @send_heartbeats()
    def destroy_service_keys(self, step: StepInput) -> None:
        """Step 6: overwrite the wrap of every service key, before tenant key and root key are gone."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            append_audit_event(tx, step, AuditName.KEY_DESTROYED, "service keys", "intended")
        for services in self._services(step):
            with self._database.tenant_tx(step.tenant_id) as tx:
                tx.leaving.destroy_service_keys(services)
        with self._database.tenant_tx(step.tenant_id) as tx:
            # The number of the inventory: an earlier attempt may have destroyed some of them.
            number = tx.leaving.destroyed("service key")
            append_audit_event(tx, step, AuditName.KEY_DESTROYED, "service keys", wraps=str(number))

    @activity.defn(name="destroy-tenant-key")
    @send_heartbeats()
    def destroy_tenant_key(self, step: StepInput) -> None:
        """Step 7: destroy the tenant key, without which no copy of a wrap can be unwrapped."""
        self._destroy(step, TenantKeyKind.TENANT)

    @activity.defn(name="destroy-ca-key")
    @send_heartbeats()
    def destroy_authority_key(self, step: StepInput) -> None:
        """Step 8: destroy the key that signs certificates in the tenant's name."""
        self._destroy(step, TenantKeyKind.AUTHORITY)

    @activity.defn(name="erase-rows")
    @send_heartbeats()
    def erase_rows(self, step: StepInput) -> None:
        """Step 9: erase the tenant's rows in PostgreSQL in batches, and its name."""
        done = False
        while not done:
            with self._database.tenant_tx(step.tenant_id) as tx:
                done = tx.leaving.erase(_ROWS)
        with self._database.tenant_tx(step.tenant_id) as tx:
            leaving = tx.leaving.get()
            counts = {} if leaving is None else leaving.erased
            details = {name: str(number) for name, number in counts.items() if number}
            append_audit_event(tx, step, AuditName.ROWS_ERASED, step.tenant_id, "success", **details)

    @activity.defn(name="destroy-payload-key")
    @send_heartbeats()
    def destroy_payload_key(self, step: StepInput) -> None:
        """Step 11: destroy the key of the tenant's workflow payloads, after its last workflow has ended."""
        self._destroy(step, TenantKeyKind.PAYLOAD)
        self._keyring.forget(step.tenant_id)

    @activity.defn(name="issue-erasure-certificate")
    @send_heartbeats()
    def certify_destruction(self, step: StepInput) -> None:
        """Step 12: sign the erasure certificate; it, the last state and the notification are one transaction.

        The certificate names the end of the audit stream before it, and the stream records its hash.
        """
        certified = self._certified(step)
        with self._database.tenant_tx(step.tenant_id) as tx:
            row = tx.tenants.lock()
            kept = tx.leaving.certify(certified)
            digest = hashlib.sha256(kept.statement.encode()).hexdigest()
            append_audit_event(tx, step, AuditName.SHRED_CERTIFIED, step.tenant_id, statement=digest, key=kept.key)
            tx.leaving.end()
            append_audit_event(tx, step, AuditName.OFFBOARDED, step.tenant_id)
            self._outbox.store(tx, step, row, NotificationKind.OFFBOARDED)

    def _certified(self, step: StepInput) -> ErasureCertificateRow:
        """Return the signed statement; the recorded one when an earlier attempt stored it."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            kept = tx.leaving.certificate()
            if kept is not None:
                return kept
            statement = self._statement(tx, step.tenant_id)
        text = statement_text(statement)
        signature, key = self._signer.sign(shred_message(step.tenant_id, text))
        return ErasureCertificateRow(text, signature, key, statement.issued_at)

    def _described(self, kind: TenantKeyKind, tenant_id: str) -> KeyToDestroyRow:
        found, name = self._destroyer.describe(kind, tenant_id), _NAMES[kind](tenant_id)
        if found is None:  # recorded, and destroyed outside the platform; the certificate says so
            return KeyToDestroyRow(_KINDS[kind], name, "none found", hashlib.sha256(name.encode()).hexdigest())
        return KeyToDestroyRow(_KINDS[kind], name, found.versions, found.fingerprint)

    def _services(self, step: StepInput) -> Iterator[Sequence[str]]:
        """Yield the names of all services in pieces, each for a separate transaction.

        One transaction for thousands of services would outlast the deadline of a statement. After the point of no
        return no service is added and no key or certificate is created.
        """
        services: Sequence[str] = [""]
        while services:
            with self._database.tenant_tx(step.tenant_id) as tx:
                services = tx.services.names(services[-1], _SERVICES)
            if services:
                yield services

    def _certificates(self, tx: TenantTransaction, services: Sequence[str]) -> Sequence[KeyToDestroyRow]:
        """Return the valid certificates of services; expired and revoked ones grant no access anyway."""
        return [
            KeyToDestroyRow(
                "service certificate",
                leaf.serial,
                f"{leaf.service} {leaf.generation}",
                hashlib.sha256(ssl.PEM_cert_to_DER_cert(leaf.certificate_pem)).hexdigest(),
            )
            for leaf in tx.services.valid_leaves(self._clock(), services)
        ]

    def _destroy(self, step: StepInput, kind: TenantKeyKind) -> None:
        name = _NAMES[kind](step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            gone = next((row for row in tx.leaving.keys_to_destroy() if row.kind == _KINDS[kind]), None)
            if gone is None:
                return
            append_audit_event(tx, step, AuditName.KEY_DESTROYED, name, "intended")
        self._destroyer.destroy(kind, step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.leaving.destroyed(_KINDS[kind])
            append_audit_event(
                tx, step, AuditName.KEY_DESTROYED, name, versions=gone.versions, fingerprint=gone.fingerprint
            )

    def _statement(self, tx: TenantTransaction, tenant_id: str) -> ErasureStatement:
        leaving, head = tx.leaving.get(), tx.audit.head()
        if leaving is None or leaving.since is None or head is None:
            raise TenantUnknown
        return ErasureStatement(
            tenant_id=tenant_id,
            issued_at=self._clock(),
            grace_began_at=leaving.since,
            destroyed=tuple(map(_gone, tx.leaving.keys_to_destroy())),
            erased=dict(leaving.erased),
            kept=KEPT,
            remains=remains(self._backup_days),
            audit_seq=head.seq,
            audit_hash=head.chain_hash.hex(),
        )


def _gone(row: KeyToDestroyRow) -> Destroyed:
    """Return a row for the statement; raises DatabaseRefused for a key that is not destroyed."""
    if row.destroyed_at is None:
        raise DatabaseRefused(
            f"the {row.kind} {row.name} is not destroyed yet", "see docs/offboarding.md#when-it-stops"
        )
    return Destroyed(
        kind=row.kind,
        name=row.name,
        versions=row.versions,
        fingerprint=row.fingerprint,
        destroyed_at=row.destroyed_at,
    )


_PAUSE_SECONDS = 0.25
_TERMINATED_AT_ONCE = 50
_MAX_WAIT_SECONDS = 30.0
"""Time for workflows to end. One that still runs afterwards waits for something that no longer exists."""

log = structlog.get_logger()


class WorkflowTerminationActivities:
    @activity.defn(name="terminate-workflows")
    async def close_workflows(self, step: StepInput) -> None:
        """Step 10: wait until every other workflow of the tenant has ended, those of services aside.

        Those that remain are terminated. The tenant workflow received a signal before. The list of running workflows
        lags, so the tenant workflow is described by its id. A workflow that the list misses can do no harm: its keys
        and rows are gone.
        """
        client, own, waited = activity.client(), activity.info().workflow_id, 0.0
        while left := await _running(client, step.tenant_id, own):
            activity.heartbeat(len(left))
            if waited >= _MAX_WAIT_SECONDS:
                for workflow_id in left:
                    log.warning("terminating workflow of an offboarded tenant", workflow_id=workflow_id)
                    await _terminate(client, workflow_id)
            await asyncio.sleep(_PAUSE_SECONDS)
            waited += _PAUSE_SECONDS

    @activity.defn(name="terminate-service-workflows")
    async def terminate_service_workflows(self, step: StepInput) -> None:
        """Step 14: terminate the workflows of services, which have nothing left to do.

        A signal to each would cost several events of the sender and a task of a worker.
        """
        client, terminated = activity.client(), set[str]()
        while left := await _listed(client, f"WorkflowId STARTS_WITH '{ids.service_workflow(step.tenant_id, '')}'"):
            for begin in range(0, len(left), _TERMINATED_AT_ONCE):
                activity.heartbeat(len(terminated))
                some = set(left[begin : begin + _TERMINATED_AT_ONCE]) - terminated
                await asyncio.gather(*(_terminate(client, workflow_id) for workflow_id in some))
                terminated |= some
            await asyncio.sleep(_PAUSE_SECONDS)


async def _running(client: Client, tenant_id: str, own: str | None) -> list[str]:
    entity, service = ids.tenant_workflow(tenant_id), ids.service_workflow(tenant_id, "")
    query = f"WorkflowId STARTS_WITH '{entity}/' and WorkflowId NOT STARTS_WITH '{service}'"
    found = {*await _listed(client, query)} - {own}
    if await _is_running(client, entity):
        found.add(entity)
    return sorted(found)


async def _listed(client: Client, query: str) -> list[str]:
    """Return the ids of the running workflows that a query finds.

    The query is by id, because not every workflow has the search attribute of its tenant. A tenant id has only letters,
    digits and hyphens (core/names.py), so it cannot end the quotes.
    """
    return [run.id async for run in client.list_workflows(f"{query} and ExecutionStatus = 'Running'")]


async def _is_running(client: Client, workflow_id: str) -> bool:
    try:
        described = await client.get_workflow_handle(workflow_id).describe()
    except RPCError as gone:
        if gone.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return described.status is WorkflowExecutionStatus.RUNNING


async def _terminate(client: Client, workflow_id: str) -> None:
    try:
        await client.get_workflow_handle(workflow_id).terminate(reason="the tenant is offboarded")
    except RPCError as gone:
        if gone.status is not RPCStatusCode.NOT_FOUND:
            raise
