"""Builders of valid test data; a test overrides the fields that it checks."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg

from core.isolation import CheckResult, SignedClause, by_clause, clause_message, summed_up
from core.keys.root_keys import OpenBaoKeyRef
from core.keys.rotation import RotationScope
from core.names import ca_key, l2_key
from core.notifications import Channel, Notification, NotificationKind
from core.notifications.targets import TargetKind
from core.services import CryptoOperation
from core.tenants.approvals import Action, VoteChoice
from core.tenants.lifecycle import Transition
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import EventKind, MarketplaceEvent, Step
from core.tenants.roles import Person, PersonRole
from core.usage import BUCKETS, Latency, bucket
from database.audit import ArchivedPart
from database.certificates import AuthorityRow, RevocationListRow
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.keys import EncryptedRootKeyRow, KeyProbeRow, ServiceKeyRow
from database.offboarding import ErasureCertificateRow, KeyToDestroyRow
from database.provisioning import RouteRow
from database.root_keys import RootKeyRequestRow
from database.rotation import RotationRequest
from database.services.agents import BackfillRow, HeartbeatRow, ProtectionUseRow
from database.services.enrolment import EnrolmentRow, JoinTokenRow
from database.services.managed_objects import ObjectRow
from database.services.repository import ServiceCertificateRow, ServiceRequestRow
from database.usage import UsesRow
from openkcm.contract.audit_events import AuditEvent, AuditName, archive_message
from openkcm.contract.enrolment import Proof
from openkcm.contract.protected_fields import Backfill, Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer, sign_head

NOW = (datetime.now(UTC) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
"""Relative to the real time, because row security and retention compare rows with the database's clock."""


def an_event(tenant_id: str, event_id: str = "event-1", **changed: object) -> MarketplaceEvent:
    event = MarketplaceEvent(
        event_id=event_id,
        kind=EventKind.SERVICE_ENABLED,
        tenant_id=tenant_id,
        organization=f"{tenant_id} Corporation",
        region="eu-west-1",
        timestamp=NOW,
    )
    return event.model_copy(update=changed)


def an_audit_event(event_id: str = "audit-1", **changed: object) -> AuditEvent:
    event = AuditEvent(
        event_id=event_id,
        name=AuditName.TENANT_KEY_CREATED,
        actor_kind="system",
        actor="worker",
        subject="L2-acme-primary",
        outcome="success",
        correlation_id="tenant/acme/provision",
    )
    return event.model_copy(update=changed)


def an_authority(serial: str = "0a1b") -> AuthorityRow:
    return AuthorityRow(serial, "certificate", "chain", NOW + timedelta(days=365))


def an_authority_serial(tenant_id: str) -> str:
    """Return the serial of the authority that `a_provisioned_tenant` records."""
    return tenant_id.encode().hex()


def a_route(tenant_id: str) -> RouteRow:
    return RouteRow(l2_key(tenant_id), "ab" * 32, "eu-west-1")


def an_announcement(tenant_id: str, message_id: str = "message-1", **changed: object) -> Notification:
    notification = Notification(
        message_id=message_id,
        tenant_id=tenant_id,
        channel=Channel.CALLBACK,
        kind=NotificationKind.READY,
        subject="OpenKCM is ready",
        body="text",
    )
    return notification.model_copy(update=changed)


def a_target(
    tenant_id: str, label: str = "Security team", **changed: object
) -> tuple[str, TargetKind, str, str, frozenset[str], str | None]:
    """Return the arguments of `NotificationTargets.add`: a webhook that gets every event, with a sealed text."""
    target_id = hashlib.md5(f"{tenant_id} {label}".encode(), usedforsecurity=False).hexdigest()
    values = {"kind": TargetKind.WEBHOOK, "address": "https://hooks.example/token", "muted": (), "sealed": "sealed"}
    kind, address, muted, sealed = (values | changed).values()
    return target_id, kind, label, address, frozenset(muted), sealed


def a_result(name: str = "read", **changed: object) -> CheckResult:
    result = CheckResult(clause="M2", name=name, outcome="held", seconds=0.001, evidence="0 rows")
    return result.model_copy(update=changed)


def an_examination(
    tx: TenantTransaction,
    *results: CheckResult,
    run: str = "examination-1",
    at: datetime = NOW,
    signer: Signer = SIGNER,
) -> tuple[SignedClause, ...]:
    """Record a signed isolation assessment with these results; by default with one rejected attack."""
    every = results or (a_result(),)
    lines = [summed_up(clause, found) for clause, found in sorted(by_clause(every).items())]
    signed = signer.sign_all([clause_message(tx.tenant_id, run, at, line) for line in lines])
    recorded = tuple(
        SignedClause(**line.model_dump(), run=run, examined_at=at, signature=signature, key=key)
        for line, (signature, key) in zip(lines, signed, strict=True)
    )
    tx.boundaries.record_examination(recorded, every)
    return recorded


def a_request(request_id: str = "request-1", service: str = "orders") -> ServiceRequestRow:
    return ServiceRequestRow(request_id, service, ServiceKind.MONGODB, "a signing request")


def a_join_token(tenant_id: str, service: str = "orders", **changed: object) -> JoinTokenRow:
    token_hash = hashlib.sha256(f"{tenant_id}/{service}".encode()).hexdigest()
    return replace(JoinTokenRow(token_hash, service, ServiceKind.MONGODB, "ada", timedelta(hours=1)), **changed)


def an_enrolment(tenant_id: str, service: str = "orders", **changed: object) -> EnrolmentRow:
    digest = hashlib.sha256(f"{tenant_id}/{service}".encode()).hexdigest()
    row = EnrolmentRow(digest[:32], service, ServiceKind.MONGODB, Proof.JOIN_TOKEN, digest, "c" * 64, "d" * 64)
    return replace(row, **changed)


def a_leaf(
    serial: str = "1a2b", service: str = "orders", generation: int = 1, tenant_id: str = "acme"
) -> ServiceCertificateRow:
    authority = an_authority_serial(tenant_id)
    ends = NOW + timedelta(hours=72)
    return ServiceCertificateRow(serial, service, generation, "request-1", "certificate", NOW, ends, authority)


def a_revocation_list(authority: str, number: int = 1, at: datetime = NOW) -> RevocationListRow:
    return RevocationListRow(authority, number, b"der", at, at + timedelta(hours=24))


def a_service_key(tenant_id: str, service: str = "orders", version: int = 1) -> ServiceKeyRow:
    return ServiceKeyRow(service, version, l2_key(tenant_id), "platform", "root-eu-west-1", b"wrapped twice")


def an_object(tenant_id: str, object_id: str = "object-1", **changed: object) -> ObjectRow:
    row = ObjectRow(object_id, "orders", l2_key(tenant_id), 2, 1, ("first",), b"attributes", 1, b"sealed", 1)
    return row._replace(**changed)


def a_place(**changed: object) -> OpenBaoKeyRef:
    place = OpenBaoKeyRef(address="https://vault.example.com", key="openkcm", role_id="role")
    return place.model_copy(update=changed)


def a_root_key_id(tenant_id: str) -> str:
    return hashlib.md5(tenant_id.encode(), usedforsecurity=False).hexdigest()


def a_root_key(field: Field, tenant_id: str, number: int = 1, root_key_id: str | None = None) -> str:
    """Wrap a tenant's service keys with a root key of the customer; return its id."""
    root_key_id, place = root_key_id or a_root_key_id(tenant_id), a_place()
    with field.open("operator", max_size=1).tenant_tx(tenant_id) as tx:
        tx.root_keys.request(RootKeyRequestRow(root_key_id, place, "sealed"))
    with field.open("worker", max_size=1).tenant_tx(tenant_id) as tx:
        tx.root_keys.admit(EncryptedRootKeyRow(root_key_id, place, "credentials"))
        tx.root_keys.begin(number, place.provider, place.name, root_key_id)
        tx.root_keys.found(root_key_id, [])
        tx.root_keys.prove(root_key_id, b"probe", bytes(32))
        rows = tx.root_keys.unstaged(number, 1000)
        tx.root_keys.stage(number, [(row, row.wrapped + b" again") for row in rows])
        assert tx.root_keys.switch(number)
    return root_key_id


def a_wanted_rotation(**changed: object) -> RotationRequest:
    return RotationRequest(tenant_key=False, services=RotationScope.ALL)._replace(**changed)


def a_new_version(worker: Database, tenant_id: str, service: str = "orders", **changed: object) -> int:
    """Activate the next version of a service's key; return its number."""
    with worker.tenant_tx(tenant_id) as tx:
        number = tx.rotations.all()[0].number + 1
        wanted = a_wanted_rotation(services=RotationScope.ONE, service=service, **changed)
        tx.rotations.begin(number, wanted, 1)
        [(_, version)] = tx.rotations.unprepared(number, TenantPolicy())
        tx.rotations.prepare(number, a_service_key(tenant_id, service, version))
        assert tx.rotations.activate(number) == [(service, version)]
        assert tx.rotations.end(number)
    return version


def a_person(tenant_id: str, subject: str = "ada", *roles: PersonRole) -> Person:
    return Person(subject, subject.capitalize(), tenant_id, frozenset(roles or {PersonRole.ADMINISTRATOR}))


def a_key_to_destroy(tenant_id: str, **changed: object) -> KeyToDestroyRow:
    return KeyToDestroyRow("L2 tenant key", l2_key(tenant_id), "1-1", "ab" * 32)._replace(**changed)


def a_leaving(field: Field, tenant_id: str) -> None:
    """Give an existing tenant the records of an offboarded one."""
    with field.open("worker", max_size=1).tenant_tx(tenant_id) as tx:
        tx.leaving.gather([a_key_to_destroy(tenant_id)])
        tx.leaving.certify(ErasureCertificateRow("{}", "signature", "audit:1", NOW))


def a_dead_letter(field: Field, tenant_id: str) -> None:
    """Give an existing tenant a notification that was not delivered."""
    with field.open("worker", max_size=1).tenant_tx(tenant_id) as tx:
        tx.outbox.add(an_announcement(tenant_id, "dead-letter", channel=Channel.EMAIL))
        tx.outbox.record_failure("dead-letter", "the mail server does not accept the message", *[timedelta(0)] * 2)


def some_uses(service: str = "orders", **changed: object) -> UsesRow:
    return replace(UsesRow(NOW, service, CryptoOperation.ENCRYPT, "", 10, 1000), **changed)


def a_contact(service: str = "orders", instance: str = "host-1", **changed: object) -> HeartbeatRow:
    ends = NOW + timedelta(hours=72)
    return HeartbeatRow(service, instance, "0.1.0", ends, None, datetime.now(UTC))._replace(**changed)


def a_protection_use(
    service: str = "orders", place: str = "public.customers.ssn", **changed: object
) -> ProtectionUseRow:
    return ProtectionUseRow(NOW.date(), service, place, 10, 320, 7, 4, 900)._replace(**changed)


def a_backfill(
    service: str = "orders", place: str = "postgresql:public.customers.ssn", **changed: object
) -> BackfillRow:
    return BackfillRow(service, place, 40, 60, Backfill.RUNNING, datetime.now(UTC))._replace(**changed)


def a_protected_field(**changed: object) -> ProtectedField:
    return replace(ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED), **changed)


def took(*microseconds: int) -> Latency:
    counts = [0] * BUCKETS
    for one in microseconds:
        counts[bucket(one)] += 1
    return Latency(tuple(counts), sum(microseconds))


def a_provisioned_tenant(worker: Database, tenant_id: str) -> None:
    """Give a tenant at least one row in every table that does not need a service."""
    with worker.tenant_tx(tenant_id) as tx:
        tx.tenants.request(an_event(tenant_id))
        tx.inbox.accept(an_event(tenant_id))
        tx.tenants.move(Transition.PROVISION)
        tx.steps.plan("provision-1", [Step.OPEN_RECORDS, Step.CREATE_KEYS])
        tx.keys.record(l2_key(tenant_id), "L2", 1)
        tx.fingerprints.record(l2_key(tenant_id), 1, hashlib.sha256(tenant_id.encode()).hexdigest())
        tx.fingerprints.leave(KeyProbeRow(l2_key(tenant_id), 1, "vault:v1:a probe"))
        tx.keys.record(ca_key(tenant_id), "CA", 1)
        authority = tx.certificates.record_authority(an_authority(an_authority_serial(tenant_id)))
        tx.certificates.publish(a_revocation_list(authority.serial))
        tx.routes.publish(a_route(tenant_id))
        tx.boundaries.record("provision-1", [a_result()])
        an_examination(tx, run="examination-0", at=NOW - timedelta(days=30))
        an_examination(tx)
        tx.outbox.add(an_announcement(tenant_id))
        tx.audit.append(an_audit_event())
        tx.policy.set(TenantPolicy())
        tx.rotations.begin(1, a_wanted_rotation(tenant_key=True, services=RotationScope.NONE), 1)
        tx.rotations.end(1)
    sign_head(worker, tenant_id)


def an_archive(field: Field, tenant_id: str) -> None:
    """Record the records up to the tenant's only checkpoint as archived, and sign the later ones."""
    worker = field.open("worker", max_size=1)
    made_old(field, tenant_id)
    with worker.tenant_tx(tenant_id) as tx:
        bounds = tx.audit.ends()
        assert bounds.signed is not None
        head = bounds.signed
        signature, key = SIGNER.sign(archive_message(tenant_id, head.seq, head.chain_hash, bytes(32)))
        tx.audit.record_archive(ArchivedPart(1, head.seq, head.chain_hash, bytes(32), signature, key))
        tx.audit.append(an_audit_event("after-archive"))
    sign_head(worker, tenant_id)


def made_old(field: Field, tenant_id: str, days: int = 4000) -> None:
    """Move the signing times of a stream's checkpoints into the past."""
    with field.administrator() as administrator:
        age_checkpoints(administrator, tenant_id, days)


def age_checkpoints(administrator: psycopg.Connection, tenant_id: str, days: int = 4000) -> None:
    administrator.execute(
        "alter table okcm.audit_signed_head disable trigger append_only;"
        f"update okcm.audit_signed_head set signed_at = signed_at - interval '{days} days'"
        f" where tenant_id = '{tenant_id}';"
        "alter table okcm.audit_signed_head enable always trigger append_only"
    )


def a_connected_service(field: Field, tenant_id: str, service: str = "orders", serial: str = "1a2b") -> None:
    """Give a provisioned tenant a service, and with it at least one row in every other table."""
    with field.open("operator", max_size=1).tenant_tx(tenant_id) as tx:
        tx.services.request(a_request(f"request-{service}", service))
        tx.enrolments.add_token(a_join_token(tenant_id, service))
    with field.open("marketplace", max_size=1).tenant_tx(tenant_id) as tx:
        tx.enrolments.begin(an_enrolment(tenant_id, service))
        tx.enrolments.discover(service, ServiceKind.MONGODB)
    with field.open("worker", max_size=1).tenant_tx(tenant_id) as tx:
        tx.services.connect(service, ServiceKind.MONGODB)
        tx.services.record_key(a_service_key(tenant_id, service))
        authority = tx.certificates.authority()
        assert authority is not None
        tx.services.record_leaf(a_leaf(serial, service)._replace(authority=authority.serial))
        tx.services.connected(service)
    with field.open("crypto", max_size=1).tenant_tx(tenant_id) as tx:
        tx.objects.add([an_object(tenant_id, f"object-{service}", service=service)])
        tx.usage.add([some_uses(service)], f"batch-{service}")
        tx.agents.note([a_contact(service)], [a_protection_use(service)])
        tx.agents.note_backfills([a_backfill(service)])
    with field.open("dashboard", max_size=1).tenant_tx(tenant_id) as tx:
        tx.protection.protect(service, a_protected_field(), "ada")
        tx.sessions.begin("5e" * 32, "ada", NOW + timedelta(days=400))
        tx.targets.add(*a_target(tenant_id, service))
        approval_id = hashlib.md5(tenant_id.encode(), usedforsecurity=False).hexdigest()
        tx.approvals.ask(approval_id, Action.LOCK, {}, a_person(tenant_id), "maintenance")
        tx.approvals.vote(approval_id, a_person(tenant_id), VoteChoice.WITHDRAW)
        tx.reports.request(approval_id, NOW - timedelta(days=30), NOW, "ada")
