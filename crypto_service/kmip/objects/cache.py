"""The cached objects of all tenants, bounded in bytes: for each tenant, and in total at the cost of the largest one."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from crypto_service.kmip.objects.managed_object import ManagedObject

BYTES_PER_TENANT = 16 * 1024 * 1024
BYTES_IN_TOTAL = 128 * 1024 * 1024
_ENTRY_BYTES = 2_048
"""What an object takes beside its content: its decoded attributes, names and the entry."""

_Name = tuple[str, str]


@dataclass(slots=True)
class _Entry:
    tenant_id: str
    name: _Name
    managed: ManagedObject
    size: int
    until: float


@dataclass(slots=True)
class _Share:
    """The entries of one tenant, the oldest first."""

    entries: OrderedDict[_Name, _Entry] = field(default_factory=OrderedDict)
    size: int = 0


class ObjectCache:
    """Objects by tenant, service and id. All entries live equally long, so their order is that of their ends."""

    def __init__(
        self,
        seconds: float,
        per_tenant: int = BYTES_PER_TENANT,
        total: int = BYTES_IN_TOTAL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.size = 0
        """The estimated bytes of all entries."""
        self._seconds, self._per_tenant, self._total, self._monotonic = seconds, per_tenant, total, monotonic
        self._shares: dict[str, _Share] = {}
        self._by_age: OrderedDict[tuple[str, _Name], _Entry] = OrderedDict()

    def get(self, tenant_id: str, service: str, object_id: str) -> ManagedObject | None:
        share = self._shares.get(tenant_id)
        entry = None if share is None else share.entries.get((service, object_id))
        return None if entry is None or entry.until <= self._monotonic() else entry.managed

    def store(self, tenant_id: str, managed: ManagedObject) -> None:
        """Store an object and drop what has expired; an object above a tenant's bound is not stored."""
        row, now = managed.row, self._monotonic()
        name = row.service, row.object_id
        entry = _Entry(tenant_id, name, managed, _size(managed), now + self._seconds)
        self._drop_expired(now)
        share = self._shares.setdefault(tenant_id, _Share())
        former = share.entries.get(name)
        if former is not None:
            self._drop(former)
        while share.entries and share.size + entry.size > self._per_tenant:
            self._drop(next(iter(share.entries.values())))
        if entry.size > self._per_tenant:
            return
        share = self._shares.setdefault(tenant_id, _Share())
        share.entries[name] = entry
        share.size += entry.size
        self.size += entry.size
        self._by_age[tenant_id, name] = entry
        while self.size > self._total:
            largest = max(self._shares.values(), key=lambda one: one.size)
            self._drop(next(iter(largest.entries.values())))

    def forget(self, tenant_id: str | None) -> None:
        """Drop the objects of a tenant, or of all."""
        for share in list(self._shares.values()) if tenant_id is None else [self._shares.get(tenant_id, _Share())]:
            for entry in list(share.entries.values()):
                self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        share = self._shares[entry.tenant_id]
        del share.entries[entry.name], self._by_age[entry.tenant_id, entry.name]
        share.size -= entry.size
        self.size -= entry.size
        if not share.entries:
            del self._shares[entry.tenant_id]

    def _drop_expired(self, now: float) -> None:
        while self._by_age and (oldest := next(iter(self._by_age.values()))).until <= now:
            self._drop(oldest)


def _size(managed: ManagedObject) -> int:
    return _ENTRY_BYTES + len(managed.row.material or b"") + 4 * len(managed.row.attributes)
