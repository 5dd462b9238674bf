"""The hourly look whether a root key has a newer version than something of its tenant lies under.

Whoever holds a root key makes versions of it where it is held, and tells nobody. So each is asked to wrap something of
no worth, and what it gives back names the version. What is found is put on record; a rotation then wraps everything
anew (docs/rotation.md). AWS KMS and keys in tokens number no versions: they are not asked.
"""

import os
from collections.abc import Iterator, Sequence

import structlog
from temporalio import activity

from activities.concurrency import ContextThreadPool
from activities.keys import unwrap_service_key
from core import names as ids
from core.errors.keys import CustomerKeyError
from core.keys.root_keys import version_context
from core.messages.keys import DueTenants
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.root_keys import VersionedRootKey
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from openkcm.contract.audit_events import AuditEvent, AuditName
from openkcm.errors import OpenKcmError

_THREADS = 8
_TOGETHER = 64
"""Root keys asked before what was found of them is put on record."""
_TRIAL_BYTES = 32
_MOST = 200
"""Tenants told in one look, as of those whose keys are old: the platform's key is everybody's."""

log = structlog.get_logger()


class RootKeyVersionActivities:
    def __init__(self, database: Database, platform: PlatformQueries, shelf: RootKeyCache) -> None:
        self._database = database
        self._platform = platform
        self._shelf = shelf

    @activity.defn(name="notice-root-key-versions")
    def notice_root_key_versions(self) -> DueTenants:
        """Ask each root key for its newest version; return tenants with something under an older one, at most a batch.

        One that does not answer is asked again in the next look, which finds the rest as well.
        """
        found = self._platform.numbered_root_keys()
        regions = {key.region for key in found if key.root_key_id is None}
        of_platform = {region: self._newest_of_platform(region) for region in sorted(regions)}
        behind: list[str] = []
        with ContextThreadPool(_THREADS, thread_name_prefix="follow") as pool:
            for first in range(0, len(found), _TOGETHER):
                for key, newest in self._asked(pool, found[first : first + _TOGETHER], of_platform):
                    if newest is not None and self._is_behind(key, newest):
                        behind.append(key.tenant_id)
                    if len(behind) == _MOST:
                        return DueTenants(tenants=tuple(behind))
        return DueTenants(tenants=tuple(behind))

    def _asked(
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
            # No tenant's: what it wraps for the canary tells of all.
            return _newest(self._shelf.platform(region), ids.CANARY_TENANT_ID)
        except OpenKcmError as failed:
            log.warning("root key not asked for its version", region=region, code=failed.code)
            return None

    def _newest_of(self, key: VersionedRootKey, root_key_id: str) -> int | None:
        try:
            with self._database.tenant_tx(key.tenant_id) as tx:
                sealed = tx.root_keys.sealed(root_key_id)
            return _newest(unwrap_service_key(self._shelf, key.tenant_id, sealed), key.tenant_id)
        except CustomerKeyError as failed:
            # Whether that means anything for the tenant is the watch's to say.
            log.info("root key not asked for its version", tenant_id=key.tenant_id, code=failed.code)
        except OpenKcmError as failed:
            log.warning("root key not asked for its version", tenant_id=key.tenant_id, code=failed.code)
        except Exception:  # one tenant's trouble must not end the look at all the others
            log.exception("root key not asked for its version", tenant_id=key.tenant_id)
        return None

    def _is_behind(self, key: VersionedRootKey, newest: int) -> bool:
        """Return whether something lies under an older version, which is put on record."""
        # The second: a key that was restored from a backup counts from there.
        if key.oldest < newest or (key.noticed is not None and newest < key.noticed):
            try:
                self._record(key, newest)
            except OpenKcmError as failed:
                log.warning("root key's version not recorded", tenant_id=key.tenant_id, code=failed.code)
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
    """Return the version that the root key wraps under; what is wrapped is random and dropped."""
    return root_key.version_of(root_key.wrap(version_context(tenant_id), os.urandom(_TRIAL_BYTES)))
