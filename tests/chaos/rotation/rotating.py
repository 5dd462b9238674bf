"""A tenant whose keys are rotated during kills, an attacker with an old copy, and the assertions afterwards."""

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from activities.keys import context_of
from config import secrets
from config.secrets import read_secret
from core import names as ids
from core.errors.keys import KeyUnavailable
from core.keys.encryption_context import EncryptionContext
from core.keys.rotation import KeyState, RotationScope
from core.messages.keys import RotateRequest
from kms.platform import PlatformRootKey
from openkcm.contract.audit_events import AuditName
from tests.chaos.audited import assert_recorded_once, whole_stream
from tests.chaos.field import REGION, Field
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.tenant_keys import TransitTenantKeys
from worker import wiring

Copies = list[tuple[EncryptionContext, str]]
"""Wraps without the layer of the root key: a holder needs only the tenant key to unwrap service keys."""


@contextmanager
def adapters(field: Field) -> Iterator[wiring.WorkerDependencies]:
    """Yield the worker's adapters in this process, beside the worker that is killed."""
    parts = wiring.build(field.settings)
    yield parts
    parts.database.close()


def tenant_keys(parts: wiring.WorkerDependencies) -> TransitTenantKeys:
    identity = read_secret(parts.settings.secrets, secrets.BOUNDARY_IDENTITY)
    return TransitTenantKeys(parts.vault, TenantTokens(parts.vault, identity))


def copy_wraps(field: Field, tenant_id: str) -> Copies:
    """Return what an attacker has who copied every row of a tenant and can use the platform's root key."""
    with adapters(field) as parts:
        root_key = PlatformRootKey(parts.root_keys, REGION)
        with parts.database.tenant_tx(tenant_id) as tx:
            versions = tx.services.keys()
            live = [(key.service, key.version) for key in versions if key.state is not KeyState.DESTROYED]
            rows = [found[0] for at in live if (found := tx.services.key_and_root(*at)) is not None]
        contexts = [context_of(tenant_id, row.service, row.version) for row in rows]
        copies = [(c, root_key.unwrap(c, row.wrapped).decode("ascii")) for c, row in zip(contexts, rows, strict=True)]
        # Otherwise a failure to decrypt them later would prove nothing.
        assert all(len(tenant_keys(parts).decrypt(context, inner)) == 32 for context, inner in copies)
        assert copies
    return copies


def assert_undecryptable(field: Field, copies: Copies) -> None:
    with adapters(field) as parts:
        for context, inner in copies:
            with pytest.raises(KeyUnavailable):
                tenant_keys(parts).decrypt(context, inner)


@dataclass
class RotatedTenant:
    """The tenant, with a caller that retries until it succeeds."""

    field: Field
    tenant_id: str
    services: tuple[str, ...]
    rotations: int = 0

    def rotate(self, *, compromised: bool = False) -> None:
        """Rotate all keys."""
        request = RotateRequest(
            request_id=uuid.uuid4().hex, services=RotationScope.ALL, tenant_key=True, compromised=compromised
        )
        self.rotations += 1
        self.field.ask(lambda gateway: gateway.rotate_keys(self.tenant_id, request))

    def retire_old(self) -> None:
        """Destroy every deactivated version, so that rotations do not become longer each time."""
        self.field.set_plans()
        for (service, version), state in self._states().items():
            if state is KeyState.DEACTIVATED:
                self._retire(service, version)

    def _retire(self, service: str, version: int) -> None:
        self.field.ask(lambda gateway: gateway.retire_service_key(self.tenant_id, service, version))

    def _states(self) -> dict[tuple[str, int], KeyState]:
        self.field.wait_whole()
        with adapters(self.field) as parts, parts.database.tenant_tx(self.tenant_id) as tx:
            versions = tx.services.keys()
        return {(key.service, key.version): key.state for key in versions}

    def assert_rotated(self, *, compromised: bool = False) -> None:
        """Assert that one version per service is active and only the newest L2 is in use and decrypts."""
        states = self._states()
        active = Counter(service for (service, _), state in states.items() if state is KeyState.ACTIVE)
        assert active == dict.fromkeys(self.services, 1)
        assert set(states.values()) <= {KeyState.ACTIVE, KeyState.DEACTIVATED, KeyState.DESTROYED}
        assert not compromised or KeyState.DEACTIVATED not in states.values()
        newest, name = self.rotations + 1, ids.l2_key(self.tenant_id)
        with adapters(self.field) as parts:
            with parts.database.tenant_tx(self.tenant_id) as tx:
                key = tx.keys.get(name)
                rotation, another = tx.rotations.get(self.rotations), tx.rotations.get(self.rotations + 1)
            assert (rotation and rotation.state, another) == ("done", None)
            assert key is not None
            assert (key.version, key.oldest) == (newest, newest)
            there = parts.vault.read(f"transit/keys/{name}")
            assert there is not None
            assert (there["latest_version"], there["min_decryption_version"]) == (newest, newest)
            assert not compromised or there["min_available_version"] == newest
            with parts.database.raw_tx(self.tenant_id) as connection:
                l2_versions = connection.execute(
                    "select distinct l2_version from okcm.service_key where state <> 'destroyed'"
                ).fetchall()
            assert l2_versions == [(newest,)]
            records = whole_stream(parts.database, self.tenant_id)
        assert_recorded_once(records, f"rotate-{self.rotations}", AuditName.KEYS_ROTATED, AuditName.TENANT_KEY_RETIRED)
