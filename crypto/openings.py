"""Notes when versions of service keys were opened: by that a customer sees which of them nothing needs any more.

A note is never waited for and never fails anything: one that is lost is made again with the next opening, while the
version is in use at all. What is used without being opened is opened again within the cache time.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import structlog

from crypto.interfaces import Blocking
from database.interfaces import TenantDatabase
from tenancy.errors import OpenKcmError

_APART = 60.0
"""Seconds between two notes of one version."""
_MOST = 16_384
"""Versions remembered; beyond it those that were noted first are forgotten, and the database tells them apart."""

Version: TypeAlias = tuple[str, str, int]

log = structlog.get_logger()


class Openings:
    """What `CachedKeyring` tells of its openings, on its loop."""

    def __init__(
        self, database: TenantDatabase, blocking: Blocking, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._blocking = blocking
        self._monotonic = monotonic
        self._noted: OrderedDict[Version, float] = OrderedDict()
        self._under_way: set[asyncio.Task[None]] = set()

    def opened(self, tenant_id: str, service: str, version: int) -> None:
        """Note it, at most once a minute for each version; returns at once."""
        key, now = (tenant_id, service, version), self._monotonic()
        if now - self._noted.get(key, -_APART) < _APART:
            return
        self._noted[key] = now
        self._noted.move_to_end(key)
        if len(self._noted) > _MOST:
            self._noted.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._note(key))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _note(self, key: Version) -> None:
        tenant_id, service, version = key
        try:
            await self._blocking.run(tenant_id, partial(self._write, tenant_id, service, version))
        except OpenKcmError as error:
            self._noted.pop(key, None)
            log.warning("opening not noted", tenant_id=tenant_id, service=service, version=version, code=error.code)

    def _write(self, tenant_id: str, service: str, version: int) -> None:
        with self._database.tenant_tx(tenant_id) as tx:
            tx.services.opened(service, version)
