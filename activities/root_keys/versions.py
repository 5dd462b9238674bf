"""The hourly check for root keys with a newer version than a wrap of their tenant.

The holder of a root key rotates it without notice to the platform. Each root key therefore wraps a random value, and
the ciphertext names the version. A newer version is recorded, and a rotation re-wraps everything (docs/rotation.md).
AWS KMS and PKCS #11 tokens number no versions, so their keys are not checked.
"""

import os
from collections.abc import Iterator, Sequence

import structlog
from temporalio import activity

from activities.keys import unwrap_service_key
from activities.runtime.concurrency import ContextThreadPool, take_turns
from core import names as ids
from core.errors.keys import CustomerKeyError
from core.keys.root_keys import version_context
from core.messages.keys import DueTenants
from core.scheduled import ScheduledTask
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.root_keys import VersionedRootKey
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import OpenKcmError

_THREADS = 8
_BATCH = 64
"""Root keys checked before the results are recorded."""
_TRIAL_BYTES = 32
_MAX_TENANTS = 200
"""Tenants returned by one run, because a new version of the platform's root key concerns many tenants at once."""

log = structlog.get_logger()


class RootKeyVersionActivities:
    def __init__(self, database: Database, platform: PlatformQueries, root_key_cache: RootKeyCache) -> None:
        self._database = database
        self._platform = platform
        self._root_keys = root_key_cache

    @activity.defn(name="detect-root-key-versions")
    def notice_root_key_versions(self) -> DueTenants:
        """Read the newest version of each root key; return tenants with a wrap under an older one, at most a batch.

        The next run checks an unreachable root key again, and begins with the tenants that this one did not return.
        """
        return DueTenants(tenants=take_turns(self._database, ScheduledTask.ROOT_KEY_VERSIONS, self._behind()))

    def _behind(self) -> Sequence[str]:
        found = self._platform.numbered_root_keys()
        regions = {key.region for key in found if key.root_key_id is None}
        of_platform = {region: self._newest_of_platform(region) for region in sorted(regions)}
        behind: list[str] = []
        with ContextThreadPool(_THREADS, thread_name_prefix="follow") as pool:
            for first in range(0, len(found), _BATCH):
                for key, newest in self._newest_versions(pool, found[first : first + _BATCH], of_platform):
                    if newest is not None and self._is_behind(key, newest):
                        behind.append(key.tenant_id)
                    if len(behind) == _MAX_TENANTS:
                        return behind
        return behind

    def _newest_versions(
        self, pool: ContextThreadPool, keys: Sequence[VersionedRootKey], of_platform: dict[str, int | None]
    ) -> Iterator[tuple[VersionedRootKey, int | None]]:
        def newest(key: VersionedRootKey) -> int | None:
            return of_platform[key.region] if key.root_key_id is None else self._newest_of(key, key.root_key_id)

        for key, version in zip(keys, pool.map(newest, keys), strict=True):
            activity.heartbeat()
            yield key, version

    def _newest_of_platform(self, region: str) -> int | None:
        activity.heartbeat()
        try:
            # All tenants of the region share this key, so a wrap for the canary tenant shows its version.
            return _newest(self._root_keys.platform(region), ids.CANARY_TENANT_ID)
        except OpenKcmError as failed:
            log.warning("root key version not determined", region=region, code=failed.code)
            return None

    def _newest_of(self, key: VersionedRootKey, root_key_id: str) -> int | None:
        try:
            with self._database.tenant_tx(key.tenant_id) as tx:
                sealed = tx.root_keys.sealed(root_key_id)
            return _newest(unwrap_service_key(self._root_keys, key.tenant_id, sealed), key.tenant_id)
        except CustomerKeyError as failed:
            # Root key monitoring decides what this failure means for the tenant.
            log.info("root key version not determined", tenant_id=key.tenant_id, code=failed.code)
        except OpenKcmError as failed:
            log.warning("root key version not determined", tenant_id=key.tenant_id, code=failed.code)
        except Exception:  # one tenant's failure must not end the check of the others
            log.exception("root key version not determined", tenant_id=key.tenant_id)
        return None

    def _is_behind(self, key: VersionedRootKey, newest: int) -> bool:
        """Return whether a wrap has an older version, and record a new version."""
        # The second condition: a key restored from a backup has a lower version again.
        if key.oldest < newest or (key.noticed is not None and newest < key.noticed):
            try:
                self._record(key, newest)
            except OpenKcmError as failed:
                log.warning("root key version not recorded", tenant_id=key.tenant_id, code=failed.code)
                return False
        return key.oldest < newest

    def _record(self, key: VersionedRootKey, newest: int) -> None:
        with self._database.tenant_tx(key.tenant_id) as tx:
            tx.tenants.lock()
            held = tx.root_keys.current()
            if not tx.root_keys.notice(key.root_key_id, newest):
                return
            tx.audit.append(
                AuditEvent(
                    event_id=f"root-key-version/{key.root_key_id or key.region}/{newest}",
                    name=AuditName.ROOT_KEY_VERSION_NOTICED,
                    actor_kind="system",
                    actor="worker",
                    subject=ids.root_key(key.region) if held is None else held.name,
                    outcome="success",
                    correlation_id=activity.info().workflow_id or "",
                    details={"oldest": str(key.oldest), "newest": str(newest)},
                )
            )
        log.info("root key has a new version", tenant_id=key.tenant_id, oldest=key.oldest, newest=newest)


def _newest(root_key: RootKey, tenant_id: str) -> int | None:
    """Return the version with which the root key wraps; the wrapped value is random and discarded."""
    return root_key.version_of(root_key.wrap(version_context(tenant_id), os.urandom(_TRIAL_BYTES)))
