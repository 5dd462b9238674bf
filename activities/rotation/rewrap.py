"""Re-wrapping of service keys and root key credentials under the newest versions of tenant key and root key.

It runs in batches and at a limited rate, so that a tenant's thousands of keys leave capacity of the key servers to
their other clients. Each new wrap is unwrapped once before it replaces the former wrap.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from temporalio import activity

from activities.keys import all_unwrapped, context_of, unwrap_service_key, verify_wrapped_key, verify_wrapped_keys
from activities.runtime.concurrency import ContextThreadPool, Pace
from core.errors.keys import RootKeyServerError, WrongContext
from core.errors.tenants import TenantUnknown
from core.keys.root_keys import credentials_context, probe_context
from core.messages.keys import RotationProgress, RotationStep
from database.connection.database import Database
from database.keys import ServiceKeyRow
from database.rotation import RewrappedRow
from kms.interfaces import RootKey
from kms.key_cache import RootKeyCache
from vault.transit.keys import ciphertext_version
from vault.transit.tenant_keys import TransitTenantKeys

_BATCH = 10
"""Service keys in one call: short calls, because other clients of the servers wait meanwhile."""
_READ = 50 * _BATCH
"""Service keys read at once, because the query for outdated ones scans every service key of the tenant."""
_THREADS = 4


class Rewrapping:
    def __init__(
        self, database: Database, tenant_keys: TransitTenantKeys, root_key_cache: RootKeyCache, pace: Pace
    ) -> None:
        self._database = database
        self._tenant_keys = tenant_keys
        self._root_keys = root_key_cache
        self._pace = pace

    def run(self, step: RotationStep, root_key_version: int | None = None) -> RotationProgress:
        """Re-wrap until nothing is outdated or the time slice ends; returns the progress of all attempts.

        A wrap under an older root key version than `root_key_version` is outdated too.
        """
        self._rewrap_credentials(step)
        if root_key_version is not None:
            # Before the service keys: an operator who sees none left may disable the older versions.
            self._rewrap_probe(step, root_key_version)
        started = time.monotonic()
        with ContextThreadPool(_THREADS, thread_name_prefix="rewrap") as pool:
            while True:
                activity.heartbeat()
                with self._database.tenant_tx(step.tenant_id) as tx:
                    progress = tx.rotations.count_outdated(step.number)
                    read = tx.rotations.outdated(_READ, root_key_version)
                if not read:
                    return RotationProgress(total=progress.total, done=progress.done)
                for root_key, rows in self._batches(step, read):
                    activity.heartbeat(progress.done)
                    began = time.monotonic()
                    rewrapped = self._rewrapped(pool, step, root_key, rows)
                    if root_key_version is not None:
                        _refuse_older(root_key, [row.wrapped for row in rewrapped], root_key_version)
                    with self._database.tenant_tx(step.tenant_id) as tx:
                        progress = tx.rotations.rewrap(step.number, rewrapped)
                    self._pace.throttle(len(rows), time.monotonic() - began)
                    if self._pace.is_over(started):
                        return RotationProgress(total=progress.total, done=progress.done, more=True)

    def _rewrap_credentials(self, step: RotationStep) -> None:
        with self._database.tenant_tx(step.tenant_id) as tx:
            outdated = tx.rotations.outdated_credentials()
        for read in outdated:
            context = credentials_context(step.tenant_id, read.root_key_id)
            [credentials] = self._tenant_keys.rewrap([(context, read.credentials)])
            with self._database.tenant_tx(step.tenant_id) as tx:
                tx.rotations.rewrap_credentials(step.number, read, credentials, ciphertext_version(credentials))

    def _rewrap_probe(self, step: RotationStep, version: int) -> None:
        """Re-wrap the canary ciphertext of a customer's root key with the newer version."""
        with self._database.tenant_tx(step.tenant_id) as tx:
            held = tx.root_keys.current()
            kept = None if held is None else tx.root_keys.probe(held.root_key_id)
        if held is None or kept is None:
            return
        probe, digest = kept
        root_key, context = self._by_id(step, held.root_key_id), probe_context(step.tenant_id, held.root_key_id)
        if (root_key.version_of(probe) or version) >= version:
            return
        plain = root_key.unwrap(context, probe)
        if hashlib.sha256(plain).digest() != digest:
            raise WrongContext("the root key decrypts its canary ciphertext to another value")
        rewrapped = verify_wrapped_key(root_key, context, plain)
        _refuse_older(root_key, [rewrapped], version)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.rotations.rewrap_probe(step.number, held.root_key_id, probe, rewrapped)

    def _batches(
        self, step: RotationStep, read: Sequence[ServiceKeyRow]
    ) -> Iterator[tuple[RootKey, Sequence[ServiceKeyRow]]]:
        for root_key_id, of_one in groupby(read, lambda row: row.root_key_id):
            root_key, rows = self._by_id(step, root_key_id), list(of_one)
            for begin in range(0, len(rows), _BATCH):
                yield root_key, rows[begin : begin + _BATCH]

    def _rewrapped(
        self, pool: ContextThreadPool, step: RotationStep, root_key: RootKey, rows: Sequence[ServiceKeyRow]
    ) -> list[RewrappedRow]:
        contexts = [context_of(step.tenant_id, row.service, row.version) for row in rows]
        former = all_unwrapped(pool, root_key, contexts, [row.wrapped for row in rows])
        inners = self._tenant_keys.rewrap(
            [(context, inner.decode("ascii")) for context, inner in zip(contexts, former, strict=True)]
        )
        wraps = verify_wrapped_keys(pool, root_key, contexts, [inner.encode("ascii") for inner in inners])
        return [
            RewrappedRow(row, wrap, ciphertext_version(inner))
            for row, wrap, inner in zip(rows, wraps, inners, strict=True)
        ]

    def _by_id(self, step: RotationStep, root_key_id: str | None) -> RootKey:
        with self._database.tenant_tx(step.tenant_id) as tx:
            tenant = tx.tenants.get()
            sealed = None if root_key_id is None else tx.root_keys.sealed(root_key_id)
        if tenant is None:
            raise TenantUnknown
        if root_key_id is None:
            return self._root_keys.platform(tenant.region)
        return unwrap_service_key(self._root_keys, step.tenant_id, sealed)


def _refuse_older(root_key: RootKey, wraps: Sequence[bytes], version: int) -> None:
    """Raise RootKeyServerError for a new wrap under an older version, as a server without the newest version makes."""
    if any((root_key.version_of(wrap) or version) < version for wrap in wraps):
        raise RootKeyServerError(
            f"the root key wraps under an older version than {version}, which it had",
            "verify that each node of its server has the newest version",
        )
