"""Construction of every adapter and activity of the worker; only this module chooses implementations."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from temporalio.client import Client
from temporalio.common import MetricMeter
from temporalio.converter import DataConverter
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, Worker

from activities.approvals import ApprovalActivities
from activities.audit import AuditCheckpointActivities, CheckpointSigner, ReconcileActivities
from activities.certificates.ca_rotation import AuthorityActivities
from activities.certificates.crl import RevocationActivities
from activities.certificates.expiry import ExpiryActivities
from activities.isolation.assessment import Attack, IsolationAssessmentActivities
from activities.isolation.crypto_api_suite import CryptoApiIsolationSuite
from activities.isolation.gate import IsolationGateActivities
from activities.isolation.key_suite import KeyIsolationSuite
from activities.isolation.probe_services import ProbeServices
from activities.lock_records import LockRecordActivities, LockRecords
from activities.notifications import (
    CallbackSender,
    EmailSender,
    NotificationActivities,
    NotificationOutbox,
    Sender,
    SigningSecrets,
    TargetSender,
    WebhookSender,
)
from activities.offboarding.destruction import DestructionActivities, WorkflowTerminationActivities
from activities.offboarding.grace_period import GracePeriodActivities
from activities.provisioning import ProvisioningActivities, TenantCaActivities, TenantKeyActivities
from activities.recovery import RecoveryActivities
from activities.reports import Rendering, ReportActivities
from activities.retention import ArchiveKeys, ArchivePolicy, AuditArchiveActivities, RowRetentionActivities
from activities.root_keys.change import RootKeyActivities
from activities.root_keys.health import PollIntervals, RootKeyHealthActivities
from activities.root_keys.versions import RootKeyVersionActivities
from activities.rotation.stalled import StalledRotationActivities
from activities.rotation.steps import RotationActivities
from activities.runtime.audit_trail import Clock
from activities.runtime.concurrency import Pace
from activities.runtime.metrics import Metrics
from activities.runtime.step_progress import report_response
from activities.services import ServiceActivities
from activities.store_repair import StoreRepairActivities
from activities.tenants import PolicyActivities, StoredTenantActivities, TenantStatusActivities
from compliance.isolation.crypto_api.session import Endpoints
from compliance.isolation.crypto_api.suite import CryptoApiSuite
from compliance.isolation.postgres.key_lineage import KeyLineageSuite
from compliance.isolation.postgres.row_security import RowSecuritySuite
from compliance.isolation.vault.cross_tenant import VaultTenantIsolationSuite
from compliance.isolation.vault.forged_certificates import ForgedCertificateSigner
from compliance.isolation.vault.key_controls import VaultKeyControlSuite
from compliance.reconciliation.ledger import our_records
from compliance.reconciliation.vault_log import files_of, read_log
from compliance.reports.render import pdf, render_html
from compliance.reports.snapshot import read_stated
from compliance.stores import StoreReader
from config import secrets
from config.credential_encryption import decrypt_credentials, decrypt_signing_secret, encrypt_signing_secret
from config.networks import webhook_networks
from config.secrets import Role, read_secret, read_secret_values
from config.settings import Settings
from config.tracing import open_tracer
from core import names as ids
from core import retention
from core.messages.keys import WatchRootKeysInput
from core.names import ActivityKind
from core.notifications import Channel
from core.tracing.spans import Tracer
from database.connection.database import Database
from database.platform.retention import RetentionQueries
from database.platform.scheduled import PlatformQueries
from kms.egress_policy import EgressPolicy
from kms.key_cache import RootKeyCache
from kms.platform import PlatformRootKey
from kms.providers import RootKeyProviders
from openkcm.verification.reports.signed_file import ReportFormat
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import TenantTokens
from vault.pki.authorities import PkiAuthorities
from vault.tenant_locks import TenantLocks
from vault.transit.audit_signer import TransitAuditSigner
from vault.transit.key_destruction import TransitDestroyer
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.root_keys import TransitRootKeys
from vault.transit.tenant_keys import TransitFingerprints, TransitTenantKeys
from worker.bootstrap import root_key_watches
from worker.interceptors import CorrelationInterceptor, FailureInterceptor
from worker.payload_codec import PayloadKeyCache, TenantCodec, TenantConverter
from worker.probe_services import ProbeServiceConnections
from worker.task_queues import database_connections, queue_slots
from worker.vault_login import open_vault
from worker.versioning import PinningRunner, deployment_config
from workflows.audit import ReconcileAudit, SignAuditCheckpoints
from workflows.certificates import (
    CheckExpiry,
    PublishRevocationLists,
    RotateCertificateAuthority,
    RotateDueCertificateAuthorities,
)
from workflows.client.recovery import LostWorkflowStarter
from workflows.isolation import AssessDueTenants, AssessIsolation
from workflows.notifications import DeliverNotification, DispatchNotifications
from workflows.offboarding import OffboardTenant
from workflows.provisioning import ProvisionTenant
from workflows.recovery import RecordLocks, RecoverTenant, RecoverWorkflows, RepairTenant
from workflows.reports import GenerateReport
from workflows.retention import ArchiveAuditStreams, DeleteExpiredRows
from workflows.root_keys import ChangeRootKey, DetectRootKeyVersions, MonitorRootKeys, PurgeUnusedCredentials
from workflows.rotation import RotateDueKeys, RotateKeys
from workflows.runtime import timeouts as timing
from workflows.runtime.tracing import TraceInterceptor
from workflows.services import ConnectService
from workflows.tenants import Tenant

TENANT_WORKFLOWS = (Tenant, MonitorRootKeys)
SHORT_OPERATIONS = (
    *(ProvisionTenant, ChangeRootKey, RotateKeys, RotateCertificateAuthority),
    *(AssessIsolation, GenerateReport, DeliverNotification),
)
OPERATION_WORKFLOWS = (*SHORT_OPERATIONS, ConnectService, OffboardTenant)
PLATFORM_WORKFLOWS = (
    *(SignAuditCheckpoints, ReconcileAudit, DispatchNotifications, PurgeUnusedCredentials, RotateDueKeys),
    *(RotateDueCertificateAuthorities, PublishRevocationLists, CheckExpiry, DetectRootKeyVersions),
    *(AssessDueTenants, RecoverWorkflows, RecoverTenant, RecordLocks, RepairTenant),
    *(DeleteExpiredRows, ArchiveAuditStreams),
)

_RENDERINGS: Mapping[ReportFormat, Rendering] = MappingProxyType(
    {ReportFormat.HTML: render_html, ReportFormat.PDF: pdf}
)

_STICKY = timedelta(seconds=2)
"""How long a workflow task waits for the worker that has the workflow in its cache; a killed worker costs this much."""


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class WorkerDependencies:
    """The worker's adapters and activities, built but not yet connected to Temporal."""

    settings: Settings
    database: Database
    queries: PlatformQueries
    vault: VaultSession
    offboarding: VaultSession
    keyring: PayloadKeyCache
    root_keys: TransitRootKeys
    signer: TransitAuditSigner
    lifecycle: tuple[Callable[..., Any], ...]
    platform: tuple[Callable[..., Any], ...]
    interceptors: tuple[Interceptor, ...]
    watches: Callable[[], tuple[WatchRootKeysInput, ...]]
    tracer: Tracer | None
    stopping: threading.Event
    """Set when the worker stops: activities with much work, or without an end, then return."""

    @property
    def converter(self) -> DataConverter:
        """Return the converter whose codec encrypts each tenant's payloads under the tenant's key."""
        return TenantConverter(TenantCodec(self.keyring))


def open_database(settings: Settings, role: Role, connections: int = 16) -> Database:
    """Return the database with the identity of a role and at most this number of connections."""
    folder = settings.secrets
    return Database(
        settings.postgres_url,
        role,
        secrets.read_database_password(folder, role),
        bytes.fromhex(read_secret(folder, secrets.context_key(role))),
        max_size=connections,
    )


def build(
    settings: Settings,
    clock: Clock = utc_now,
    vault: VaultSession | None = None,
    meter: MetricMeter = MetricMeter.noop,
) -> WorkerDependencies:
    """Build all dependencies without a connection, so that no unreachable server makes it fail.

    `clock` gives the time for rows and certificates. `vault` is the worker's session, created if None.
    `meter` is the meter of the process, on which all metrics are exported.
    """
    stopping = threading.Event()
    database = open_database(settings, Role.WORKER, database_connections(settings))
    vault = vault or open_vault(settings, Role.WORKER, report_response)
    tokens = TenantTokens(vault, read_secret(settings.secrets, secrets.BOUNDARY_IDENTITY))
    tenant_keys, payload_keys, authorities = (
        TransitTenantKeys(vault, tokens),
        TransitPayloadKeys(vault),
        PkiAuthorities(vault, clock),
    )
    fingerprints = TransitFingerprints(vault, tokens)
    keyring, root_keys = PayloadKeyCache(payload_keys), TransitRootKeys(vault)
    senders, metrics = _senders(settings), Metrics(meter, root_key_watches(settings.regions, settings.root_key_shards))
    keys = TenantKeyActivities(database, tenant_keys, fingerprints, payload_keys, keyring, clock, metrics)
    queries = PlatformQueries(database)
    certificates = TenantCaActivities(database, queries, authorities, clock)
    outbox = NotificationOutbox(tuple(senders), settings.dashboard_url)
    records = ProvisioningActivities(database, outbox, clock, metrics)
    root_key_cache = RootKeyCache(
        lambda region: PlatformRootKey(root_keys, region), RootKeyProviders(reach(settings)), tenant_keys.decrypt
    )
    intake = read_secret_values(settings.secrets, secrets.INTAKE_KEY)
    tenant_locks = TenantLocks(vault)
    lock_records = LockRecords(database, tenant_locks)
    changes = RootKeyActivities(
        database,
        tenant_keys,
        root_key_cache,
        lambda tenant, request, sealed: decrypt_credentials(intake, tenant, request, sealed),
        outbox,
        lock_records,
        Pace(0, stopping),
    )
    rotation = RotationActivities(
        *(database, queries, tenant_keys, fingerprints, root_key_cache, outbox),
        Pace(settings.rewrap_per_second, stopping),
        metrics,
    )
    grace, stored = settings.root_key_grace_seconds, StoredTenantActivities(database)
    standing = TenantStatusActivities(database, outbox, lock_records, grace, clock)
    approvals = ApprovalActivities(database, outbox, timedelta(hours=settings.approval_ttl_hours))
    pace = PollIntervals(settings.root_key_poll_seconds, settings.root_key_idle_poll_seconds, grace)
    watch = RootKeyHealthActivities(database, queries, root_key_cache, pace, clock, metrics, stopping)
    isolation = IsolationGateActivities(
        database, RowSecuritySuite(database), VaultTenantIsolationSuite(vault, tokens, clock), clock, metrics
    )
    notifications = NotificationActivities(
        *(database, queries, senders, _target_sender(settings, intake), outbox),
        timedelta(hours=settings.notification_retry_hours),
        clock,
        metrics,
    )
    services = ServiceActivities(
        database,
        tenant_keys,
        root_key_cache,
        authorities,
        timedelta(hours=settings.service_certificate_hours),
        clock,
    )
    signer = TransitAuditSigner(vault)
    recorded = CheckpointSigner(queries, signer)
    heads = AuditCheckpointActivities(database, queries, recorded)
    on_keys, through_listeners = (
        key_attacks(database, queries, vault, tokens, root_key_cache),
        crypto_api_suite(settings, database, vault, clock, stopping),
    )
    examination = IsolationAssessmentActivities(
        database,
        queries,
        attacks(isolation, on_keys, through_listeners),
        recorded,
        clock,
        metrics,
        daily=daily_attacks(isolation, on_keys, through_listeners),
        complete_interval=timedelta(days=settings.isolation_complete_days),
        per_second=settings.isolation_per_second,
        begin_repeat=through_listeners.forget_round,
    )
    offboarding = open_vault(settings, Role.OFFBOARDING)
    leaving = GracePeriodActivities(database, outbox, lock_records, timedelta(days=settings.offboard_grace_days), clock)
    destroyer = TransitDestroyer(offboarding, vault)
    destruction = DestructionActivities(
        database,
        destroyer,
        keyring,
        signer,
        outbox,
        settings.backup_retention_days,
        clock,
    )
    termination = WorkflowTerminationActivities()
    rolls = AuthorityActivities(database, queries, authorities)
    revocation = RevocationActivities(database, queries, authorities)
    expiry = ExpiryActivities(database, queries, authorities, outbox, clock, metrics)
    starter = LostWorkflowStarter(settings.temporal_address, settings.provisioning_slo_seconds)
    recovery = RecoveryActivities(database, queries, starter, metrics)
    expiring = RetentionQueries(database)
    repair = StoreRepairActivities(
        *(database, StoreReader(database, vault), lock_records, tenant_keys, destroyer),
        timedelta(days=settings.offboard_grace_days),
    )
    rows = RowRetentionActivities(database, expiring, retention.days_of(settings.retention_days), metrics)
    archive = AuditArchiveActivities(
        database,
        expiring,
        ArchiveKeys(recorded, signer.public_keys),
        ArchivePolicy(settings.audit_retention_days, settings.audit_archive),
        clock,
        metrics,
    )
    reports = ReportActivities(
        database, read_stated, _RENDERINGS, recorded, version("openkcm-tenant-controller"), clock
    )
    tracer = open_tracer(settings, "worker")
    # Innermost, so that a span gets the code of an error before Temporal's failure replaces it.
    tracing = () if tracer is None else (TraceInterceptor(tracer),)
    return WorkerDependencies(
        settings=settings,
        database=database,
        queries=queries,
        vault=vault,
        offboarding=offboarding,
        keyring=keyring,
        root_keys=root_keys,
        signer=signer,
        lifecycle=(
            stored.load_tenant,
            stored.read_tenant_state,
            records.open_records,
            keys.create_keys,
            keys.load_payload_key,
            certificates.create_authority,
            isolation.check_boundaries,
            records.activate,
            notifications.announce,
            notifications.deliver,
            records.break_promise,
            records.record_failure,
            keys.disable_tenant_key,
            certificates.disable_authority,
            services.record_service,
            services.create_service_key,
            services.issue_certificate,
            services.mark_connected,
            services.record_connect_failure,
            services.plan_renewal,
            services.disconnect_service,
            standing.change_standing,
            standing.follow_root_key,
            standing.follow_boundaries,
            examination.examine_tenant,
            changes.admit_root_key,
            changes.preflight_root_key,
            changes.wrap_service_keys,
            changes.switch_root_key,
            changes.abandon_root_key,
            rotation.look_for_due_rotation,
            rotation.plan_rotation,
            rotation.rotate_tenant_key,
            rotation.prepare_service_keys,
            rotation.activate_service_keys,
            rotation.rewrap_keys,
            rotation.retire_tenant_key,
            rotation.trim_tenant_key,
            rotation.destroy_compromised_keys,
            rotation.finish_rotation,
            rotation.abandon_rotation,
            rotation.retire_service_key,
            watch.watch_root_keys,
            PolicyActivities(database).change_policy,
            approvals.admit_approval,
            approvals.decide_approval,
            approvals.close_approval,
            approvals.expire_approvals,
            leaving.begin_leaving,
            leaving.remind_of_leaving,
            leaving.restore_tenant,
            leaving.begin_destruction,
            destruction.take_stock,
            destruction.disconnect_services,
            destruction.destroy_service_keys,
            destruction.destroy_tenant_key,
            destruction.destroy_authority_key,
            destruction.erase_rows,
            destruction.destroy_payload_key,
            destruction.certify_destruction,
            termination.close_workflows,
            termination.terminate_service_workflows,
            rolls.plan_authority,
            rolls.prepare_authority,
            rolls.verify_authority,
            rolls.activate_authority,
            rolls.unrenewed_services,
            rolls.abandon_authority,
            revocation.publish_revocation_list,
            heads.sign_audit_head,
            reports.state_report,
            reports.make_report,
        ),
        platform=(
            heads.sign_audit_heads,
            reconciling(settings, database, clock, metrics).reconcile_audit,
            notifications.sweep_outbox,
            watch.forget_untaken_credentials,
            rolls.due_authorities,
            revocation.end_authorities,
            revocation.publish_revocation_lists,
            expiry.check_expiry,
            rotation.find_due_rotations,
            StalledRotationActivities(database, queries, outbox, metrics).check_rotations,
            RootKeyVersionActivities(database, queries, root_key_cache).notice_root_key_versions,
            examination.find_due_examinations,
            recovery.recover_workflows,
            recovery.recover_tenant,
            repair.repair_stores,
            repair.end_tenant_workflows,
            LockRecordActivities(lock_records, queries, tenant_locks).record_locks,
            rows.delete_expired_rows,
            archive.archive_streams,
        ),
        interceptors=(CorrelationInterceptor(), FailureInterceptor(database), *tracing),
        watches=watch.watches,
        tracer=tracer,
        stopping=stopping,
    )


def workers(client: Client, parts: WorkerDependencies) -> list[Worker]:
    """Return a worker for each task queue: of the platform, and of each region by the urgency of its work."""
    settings = parts.settings
    drain = timedelta(seconds=settings.shutdown_grace_seconds)
    every_slots = queue_slots(settings)
    identity = ids.worker_identity(client.identity, settings.root_key_shards)
    runner = PinningRunner(SHORT_OPERATIONS) if settings.worker_build_id else UnsandboxedWorkflowRunner()

    def worker(queue: str, workflows: tuple[type, ...], activities: tuple[Callable[..., Any], ...]) -> Worker:
        slots = every_slots[queue]
        return Worker(
            client,
            identity=identity,
            task_queue=queue,
            workflows=workflows,
            activities=activities,
            activity_executor=ThreadPoolExecutor(slots.threads, thread_name_prefix=queue),
            max_concurrent_activities=slots.activities,
            max_concurrent_local_activities=max(slots.local, 1),  # 0 would mean the default of 100
            deployment_config=deployment_config(settings.worker_build_id),
            interceptors=parts.interceptors,
            # The sandbox detects nondeterminism; tests/workflows run every workflow in it. Here it took 30 % of the
            # worker's CPU (docs/adr), half of that to determine the workflow of each payload.
            workflow_runner=runner,
            sticky_queue_schedule_to_start_timeout=_STICKY,
            max_heartbeat_throttle_interval=timing.HEARTBEAT_INTERVAL,
            graceful_shutdown_timeout=drain,
            # No payload is stored outside the histories; a higher value would create a task for each payload.
            max_workflow_task_external_storage_concurrency=1,
        )

    found = [worker(ids.PLATFORM_QUEUE, PLATFORM_WORKFLOWS, parts.platform)]
    for region in settings.regions:
        found += [
            worker(ids.tenant_queue(region), TENANT_WORKFLOWS, parts.lifecycle),
            worker(ids.operation_queue(region), OPERATION_WORKFLOWS, parts.lifecycle),
            worker(ids.activity_queue(ActivityKind.LONG, region), (), parts.lifecycle),
            worker(ids.activity_queue(ActivityKind.PACED, region), (), parts.lifecycle),
        ]
    return found


def reach(settings: Settings) -> EgressPolicy:
    """Return the policy for connections to the servers that hold customers' root keys."""
    return EgressPolicy(
        aws_endpoint=settings.aws_kms_endpoint,
        pkcs11_module=settings.pkcs11_module,
        pkcs11_tokens=settings.pkcs11_tokens,
        networks=settings.key_server_networks,
        timeout_seconds=settings.root_key_timeout_seconds,
    )


def _senders(settings: Settings) -> Mapping[Channel, Sender]:
    senders: dict[Channel, Sender] = {}
    if settings.callback_url is not None:
        values = read_secret_values(settings.secrets, secrets.CALLBACK_SECRET)
        senders[Channel.CALLBACK] = CallbackSender(settings.callback_url, values, settings.dashboard_url)
    mail = _mail_sender(settings)
    if mail is not None and settings.email_to is not None:
        senders[Channel.EMAIL] = mail
    return senders


def _mail_sender(settings: Settings) -> EmailSender | None:
    if settings.smtp_host is None:
        return None
    password = read_secret(settings.secrets, secrets.SMTP_PASSWORD) if settings.smtp_user else None
    return EmailSender(
        settings.smtp_host,
        settings.smtp_port,
        security=settings.smtp_security,
        user=settings.smtp_user,
        password=password,
        sender=settings.email_from,
        to_template=settings.email_to,
    )


def _target_sender(settings: Settings, intake: Sequence[str]) -> TargetSender:
    """Return the sender to the receivers that tenants choose; `intake` are the private keys, the newest first."""
    policy = EgressPolicy(networks=webhook_networks(settings))
    newest = secrets.public_key(settings.secrets, secrets.INTAKE_KEY)
    signing = SigningSecrets(
        lambda tenant, ref, sealed: decrypt_signing_secret(intake, tenant, ref, sealed),
        lambda tenant, ref, secret: encrypt_signing_secret(newest, tenant, ref, secret),
        is_replaced=len(intake) > 1,
    )
    webhooks = WebhookSender(
        lambda address, encrypted: policy.allows(address, encrypted=encrypted), settings.dashboard_url
    )
    return TargetSender(webhooks, _mail_sender(settings), signing)


def attacks(
    isolation: IsolationGateActivities, keys: KeyIsolationSuite, listeners: CryptoApiIsolationSuite
) -> tuple[Attack, ...]:
    """Return the attacks of an isolation assessment in their order; the quick ones first."""
    return (isolation.attack, keys, listeners)


def daily_attacks(
    isolation: IsolationGateActivities, keys: KeyIsolationSuite, listeners: CryptoApiIsolationSuite
) -> tuple[Attack, ...]:
    """Return the attacks of a daily assessment, which need few calls to the key server."""
    return (isolation.attack_rows, keys.attack_record, listeners)


def key_attacks(
    database: Database,
    queries: PlatformQueries,
    vault: VaultSession,
    tokens: TenantTokens,
    root_key_cache: RootKeyCache,
) -> KeyIsolationSuite:
    """Return the attacks on a tenant's keys and wraps."""
    tenant_keys, fingerprints = TransitTenantKeys(vault, tokens), TransitFingerprints(vault, tokens)
    probes = VaultKeyControlSuite(vault, tokens), KeyLineageSuite(database)
    return KeyIsolationSuite(database, queries, tenant_keys, fingerprints, root_key_cache, *probes)


def crypto_api_suite(
    settings: Settings, database: Database, vault: VaultSession, clock: Clock, stopping: threading.Event
) -> CryptoApiIsolationSuite:
    """Return the attacks through the crypto service's public endpoints, at the addresses that customers use.

    Once `stopping` is set, they connect no more services.
    """
    endpoints = Endpoints(settings.crypto_name, *settings.crypto_ports)
    connections = ProbeServiceConnections(settings.temporal_address, settings.provisioning_slo_seconds, stopping)
    probes = ProbeServices(database, connections, clock)
    return CryptoApiIsolationSuite(
        database, CryptoApiSuite(endpoints), ForgedCertificateSigner(vault, clock), probes, clock
    )


def reconciling(settings: Settings, database: Database, clock: Clock, metrics: Metrics) -> ReconcileActivities:
    """Return the reconciliation of the audit streams with the key server's log, where it can be read here."""
    logs = settings.key_server_logs
    read = None if not logs else lambda since, progress: read_log(files_of(*logs), since, progress)
    return ReconcileActivities(database, read, partial(our_records, database), clock, metrics)
