"""A tenant whose keys are rotated on the battlefield, a thief with an old copy, and what must be so afterwards."""

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

Loot = list[tuple[EncryptionContext, str]]
"""What lay under the root key: whoever has it needs nothing but the tenant key to open service keys."""


@contextmanager
def adapters(field: Field) -> Iterator[wiring.WorkerDependencies]:
    """The worker's own adapters, beside the worker that is shot."""
    parts = wiring.build(field.settings)
    yield parts
    parts.database.close()


def tenant_keys(parts: wiring.WorkerDependencies) -> TransitTenantKeys:
    identity = read_secret(parts.settings.secrets, secrets.BOUNDARY_IDENTITY)
    return TransitTenantKeys(parts.vault, TenantTokens(parts.vault, identity))


def copy_wraps(field: Field, tenant_id: str) -> Loot:
    """Return what somebody has who copied every row of a tenant and can use the platform's root key."""
    with adapters(field) as parts:
        root_key = PlatformRootKey(parts.root_keys, REGION)
        with parts.database.tenant_tx(tenant_id) as tx:
            versions = tx.services.keys()
            live = [(key.service, key.version) for key in versions if key.state is not KeyState.DESTROYED]
            rows = [found[0] for at in live if (found := tx.services.key_and_root(*at)) is not None]
        contexts = [context_of(tenant_id, row.service, row.version) for row in rows]
        loot = [(c, root_key.unwrap(c, row.wrapped).decode("ascii")) for c, row in zip(contexts, rows, strict=True)]
        # Or nothing would be shown by what it opens later.
        assert all(len(tenant_keys(parts).decrypt(context, inner)) == 32 for context, inner in loot)
        assert loot
    return loot


def assert_worthless(field: Field, loot: Loot) -> None:
    with adapters(field) as parts:
        for context, inner in loot:
            with pytest.raises(KeyUnavailable):
                tenant_keys(parts).decrypt(context, inner)


@dataclass
class Rotating:
    """The tenant, as somebody asks for it who does not give up."""

    field: Field
    tenant_id: str
    services: tuple[str, ...]
    rotations: int = 0

    def rotate(self, *, compromised: bool = False) -> None:
        """Rotate everything."""
        request = RotateRequest(
            request_id=uuid.uuid4().hex, services=RotationScope.ALL, tenant_key=True, compromised=compromised
        )
        self.rotations += 1
        self.field.ask(lambda gateway: gateway.rotate_keys(self.tenant_id, request))

    def retire_old(self) -> None:
        """Destroy every version that encrypts nothing, or each rotation would have more to do than the one before."""
        self.field.aim()
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
        """One version of each service encrypts, everything lies under the newest L2, and no older one opens."""
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
                under = connection.execute(
                    "select distinct l2_version from okcm.service_key where state <> 'destroyed'"
                ).fetchall()
            assert under == [(newest,)]
            records = whole_stream(parts.database, self.tenant_id)
        assert_recorded_once(records, f"rotate-{self.rotations}", AuditName.KEYS_ROTATED, AuditName.TENANT_KEY_RETIRED)
