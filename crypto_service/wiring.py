"""Construction of all adapters of the crypto service; only this module chooses implementations."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from config.tracing import open_tracer
from core.tenants.status import ProcessKind
from core.tracing.spans import Tracer
from crypto_service.audit.copies import CopiedJournal
from crypto_service.audit.wal import WriteAheadLog, journal_folder
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.cache_invalidation import NotifyInvalidations
from crypto_service.https.heartbeats import BufferedHeartbeats
from crypto_service.https.lookups import DatabaseCertificates, DatabaseProtectedFields
from crypto_service.https.server import HttpsServer
from crypto_service.interfaces import Dependencies
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.keys.lock_checks import LockCheckedTenantKeys, LockChecks
from crypto_service.keys.operations import CryptoOperations
from crypto_service.keys.reencryption import ObjectReencryption
from crypto_service.keys.unwrap_audit import UnwrapAudit
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.kmip.server import KmipServer
from crypto_service.processes.readiness import Readiness
from crypto_service.server.client_authorities import ClientAuthorities, authorities_folder
from crypto_service.server.connection_registry import ConnectionLimits, ConnectionRegistry
from crypto_service.server.executor import FairExecutor
from crypto_service.server.limits import TenantLimits
from crypto_service.server.realtime_scheduling import keep_normal_priority
from crypto_service.server.tls import ServerTls, SharedTlsIdentity
from database.connection.database import Database
from database.platform.processes import ProcessReporter, instance_name
from database.platform.scheduled import PlatformQueries
from database.postgres.change_feed import ChangeFeed
from kms.egress_policy import EgressPolicy
from kms.key_cache import RootKeyCache
from kms.platform import PlatformRootKey
from kms.providers import RootKeyProviders
from openkcm.contract.client_files import Offer
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import InlineTenants
from vault.health import KeyServerProbe
from vault.pki.server_certificates import PkiServerCertificates
from vault.tenant_locks import TenantLocks
from vault.transit.root_keys import TransitRootKeys

_DATABASE_CONNECTIONS = 8
_THREADS = 32
_UNWRAP_THREADS = 32
"""Dedicated to unwrapping service keys: a Vault that hangs must not block database reads of callers and objects."""
_COMPUTING_THREADS = 2
"""Computations of more tenants at once would only compete for the processors that the event loop needs."""
_COMPUTING_PER_TENANT = 1


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of this service, read once before it forks."""

    database_password: str = field(repr=False)
    context_key: bytes = field(repr=False)
    vault_secret: str = field(repr=False)
    identity_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Service:
    """One worker process, built but not started: nothing is connected yet, so no server can make it fail."""

    parts: Dependencies
    database: Database
    changes: NotifyInvalidations
    journal: WriteAheadLog
    limits: TenantLimits
    keyring: ServiceKeyCache
    resealing: ObjectReencryption
    heartbeats: BufferedHeartbeats
    threads: FairExecutor
    opening: FairExecutor
    computing: FairExecutor
    connections: ConnectionRegistry
    authorities: ClientAuthorities
    tls: ServerTls
    readiness: Readiness
    key_server: KeyServerProbe
    reporter: ProcessReporter
    https: HttpsServer
    kmip: KmipServer
    tracer: Tracer | None


def read_credentials(settings: Settings) -> Credentials:
    """Return the service's secrets; raise SettingsInvalid."""
    folder = settings.secrets
    return Credentials(
        secrets.read_database_password(folder, Role.CRYPTO),
        bytes.fromhex(read_secret(folder, secrets.context_key(Role.CRYPTO))),
        read_secret(folder, secrets.vault_secret(Role.CRYPTO)),
        read_secret(folder, secrets.BOUNDARY_IDENTITY),
    )


def open_database(settings: Settings, credentials: Credentials, connections: int) -> Database:
    """Return the database with the role of this service."""
    return Database(
        settings.postgres_url,
        Role.CRYPTO,
        credentials.database_password,
        credentials.context_key,
        max_size=connections,
    )


def process_reporter(database: Database, process: ProcessKind) -> ProcessReporter:
    """Return the reporter of this process."""
    return ProcessReporter(database, process, instance_name(), datetime.now(UTC))


def build(settings: Settings, credentials: Credentials, shared_identity: SharedTlsIdentity) -> Service:
    """Build a worker process; MUST run on its event loop."""
    database = open_database(settings, credentials, _DATABASE_CONNECTIONS)
    vault = VaultSession(
        settings.vault_url,
        Role.CRYPTO,
        credentials.vault_secret,
        ca_file=settings.vault_ca_file,
        namespace=settings.vault_namespace,
    )
    root_keys = TransitRootKeys(vault)
    tenants = InlineTenants(vault, credentials.identity_pem, Role.CRYPTO)
    changes = NotifyInvalidations(ChangeFeed(settings.postgres_url, Role.CRYPTO, credentials.database_password))
    threads, opening = FairExecutor(_THREADS), FairExecutor(_UNWRAP_THREADS)
    computing = FairExecutor(_COMPUTING_THREADS, _COMPUTING_PER_TENANT, prepare=keep_normal_priority)
    folder = journal_folder(settings.state_dir)
    journal = WriteAheadLog(folder, sync=settings.crypto_audit_sync)
    seconds = settings.crypto_key_cache_seconds
    # They subscribe to changes first, so that later subscribers read locks and callers that are already invalidated.
    locks = LockChecks(TenantLocks(vault), opening, changes, cache_seconds=seconds)
    callers = ClientCertificateAuthenticator(
        database, threads, journal, changes, is_locked=locks.is_locked, cache_seconds=seconds
    )
    tenant_keys = LockCheckedTenantKeys(vault, tenants, locks)

    reach = EgressPolicy(
        aws_endpoint=settings.aws_kms_endpoint,
        pkcs11_module=settings.pkcs11_module,
        pkcs11_tokens=settings.pkcs11_tokens,
        networks=settings.key_server_networks,
        timeout_seconds=settings.root_key_timeout_seconds,
    )
    held = RootKeyCache(lambda region: PlatformRootKey(root_keys, region), RootKeyProviders(reach), tenant_keys.decrypt)
    unwrap_audit = UnwrapAudit(database, threads, journal)
    keyring = ServiceKeyCache(
        database, tenant_keys, held, opening, changes, cache_seconds=seconds, opened=unwrap_audit.opened
    )
    limits = TenantLimits(settings.crypto_tenant_rate, settings.crypto_tenant_max_in_flight)
    writer = CopiedJournal(journal, database, threads) if settings.crypto_audit_copy else journal
    operations = CryptoOperations(callers, keyring, writer)
    parts = Dependencies(callers, operations, writer, limits, threads, computing, changes)
    connections = ConnectionRegistry(parts, ConnectionLimits.of_process())
    offer = Offer(settings.crypto_https_url, settings.crypto_kmip_address)
    certificates = DatabaseCertificates(database, threads)
    heartbeats = BufferedHeartbeats(database, threads)
    protections = DatabaseProtectedFields(database, threads)
    platform = PlatformQueries(database)
    authorities = ClientAuthorities(platform, threads, changes, authorities_folder(folder))
    objects = ObjectStore(database, parts, seconds, settings.crypto_service_max_objects)
    body_limit = settings.crypto_body_limit
    # Its thread encodes spans, which must not delay a tenant that is served with real-time priority.
    tracer = open_tracer(settings, "crypto", keep_normal_priority)
    return Service(
        parts,
        database,
        changes,
        journal,
        limits,
        keyring,
        ObjectReencryption(database, platform, keyring, threads, changes),
        heartbeats,
        threads,
        opening,
        computing,
        connections,
        authorities,
        ServerTls(PkiServerCertificates(vault), settings.crypto_names, shared_identity, authorities.folder),
        Readiness(journal, database, vault, tenants.session),
        KeyServerProbe(vault.for_token("")),
        process_reporter(database, ProcessKind.CRYPTO),
        HttpsServer(parts, connections, body_limit, certificates, heartbeats, protections, offer, tracer),
        KmipServer(parts, connections, objects, body_limit, tracer),
        tracer,
    )
