"""Hundreds of service keys of a tenant, and the assertions about them after a root key change."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from config import secrets
from config.secrets import read_secret
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.root_keys import RootKeyMode
from database.connection.database import Database
from database.keys import ServiceKeyRow
from kms.platform import PlatformRootKey
from openkcm.contract.services import ServiceKind
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.tenant_keys import TransitTenantKeys
from worker.wiring import WorkerDependencies


def make_service_keys(parts: WorkerDependencies, tenant_id: str, region: str, services: Sequence[str]) -> None:
    """Create one key for each service of a tenant on the platform's root key, with the worker's adapters."""
    identity = read_secret(parts.settings.secrets, secrets.BOUNDARY_IDENTITY)
    tenant_keys = TransitTenantKeys(parts.vault, TenantTokens(parts.vault, identity))
    root_key, l2_key, name = PlatformRootKey(parts.root_keys, region), ids.l2_key(tenant_id), ids.root_key(region)

    def made(service: str) -> ServiceKeyRow:
        context = EncryptionContext(tenant_id, l2_key, service, Purpose.SERVICE_KEY, "1")
        wrapped = root_key.wrap(context, tenant_keys.new_wrapped_key(context).encode("ascii"))
        return ServiceKeyRow(service, 1, l2_key, RootKeyMode.PLATFORM, name, wrapped, None)

    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(made, services))
    with parts.database.tenant_tx(tenant_id) as tx:
        for row in rows:
            tx.services.connect(row.service, ServiceKind.MICROSERVICE)
            tx.services.record_key(row)


def assert_in_force(database: Database, tenant_id: str, mode: RootKeyMode, root_key_id: str | None) -> None:
    """Assert that one root key wraps everything, that no change is incomplete, and that no credentials remain."""
    with database.tenant_tx(tenant_id) as tx:
        current = tx.root_keys.current()
    assert (None if current is None else current.root_key_id) == root_key_id
    with database.raw_tx(tenant_id) as connection:
        assert connection.execute("select root_key_mode from okcm.tenant").fetchall() == [(mode,)]
        keys = connection.execute(
            "select distinct root_key_mode, root_key_id, staged_for, staged_wrapped from okcm.service_key"
            " where state <> 'destroyed'"
        ).fetchall()
        assert keys == [(mode, root_key_id, None, None)]
        states = Counter(state for (state,) in connection.execute("select state from okcm.root_key"))
        assert (states["current"], states["candidate"]) == (int(root_key_id is not None), 0)
        for left in (
            "select 1 from okcm.root_key where state <> 'current' and credentials is not null",
            "select 1 from okcm.root_key_request where sealed is not null",
            "select 1 from okcm.root_key_change where state = 'running'",
        ):
            assert connection.execute(left).fetchall() == [], left
