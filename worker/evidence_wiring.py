"""The part of the wiring that is about evidence: what attacks a tenant, and what holds the books against each other."""

from functools import partial

from activities.examination import Attack
from activities.front_attacks import FrontAttacks
from activities.isolation import IsolationActivities
from activities.journal import Clock
from activities.key_attacks import KeyAttacks
from activities.metrics import Metrics
from activities.probes import Probes
from activities.reconciling import ReconcileActivities
from compliance.isolation.crypto_api.session import Address
from compliance.isolation.crypto_api.suite import FrontAttacker
from compliance.isolation.postgres.key_lineage import RowDescentProbe
from compliance.isolation.vault.forged_certificates import TransitForger
from compliance.isolation.vault.key_controls import VaultKeyProbe
from compliance.reconciliation.ledger import our_records
from compliance.reconciliation.vault_log import files_of, read_log
from config.settings import Settings
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from kms.key_cache import OpenedRootKeys
from vault.auth.client import VaultSession
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.tenant_keys import TransitFingerprints, TransitTenantKeys
from worker.probing import GatewayConnections


def attacks(isolation: IsolationActivities, keys: KeyAttacks, fronts: FrontAttacks) -> tuple[Attack, ...]:
    """Return what the full examination of a tenant is made of, in its order; the quick ones first."""
    return (isolation.attack, keys, fronts)


def key_attacks(
    database: Database, queries: PlatformQueries, vault: VaultSession, tokens: TenantTokens, shelf: OpenedRootKeys
) -> KeyAttacks:
    """Return the attacks on a tenant's keys and on what lies under them."""
    tenant_keys, fingerprints = TransitTenantKeys(vault, tokens), TransitFingerprints(vault, tokens)
    probes = VaultKeyProbe(vault, tokens), RowDescentProbe(database)
    return KeyAttacks(database, queries, tenant_keys, fingerprints, shelf, *probes)


def front_attacks(settings: Settings, database: Database, vault: VaultSession, clock: Clock) -> FrontAttacks:
    """Return the attacks through the crypto service's doors, which are where customers are told that they are."""
    doors = Address(settings.crypto_name, settings.crypto_https_port, settings.crypto_kmip_port)
    connections = GatewayConnections(settings.temporal_address, settings.promise_seconds)
    probes = Probes(database, connections, clock)
    return FrontAttacks(database, FrontAttacker(doors), TransitForger(vault, clock), probes, clock)


def reconciling(settings: Settings, database: Database, clock: Clock, metrics: Metrics) -> ReconcileActivities:
    """Return what holds the key server's own log, where it can be read here, against the streams."""
    path = settings.key_server_log
    read = None if path is None else lambda since, progress: read_log(files_of(path), since, progress)
    return ReconcileActivities(database, read, partial(our_records, database), clock, metrics)
