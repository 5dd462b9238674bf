"""Rotations of a tenant's keys.

Every change of a key for a rotation first locks the rotation's row and requires it to be running. Therefore an ended
rotation changes no key. A wrap is replaced only if it is still the wrap that was read.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from core.errors.keys import KeyVersionInUse, KeyVersionUnknown
from core.errors.platform import DatabaseRefused, Superseded
from core.keys.root_keys import parse_place
from core.keys.rotation import KeyState, RotationPhase, RotationScope, StallReason
from core.tenants.policy import TenantPolicy
from database.keys import EncryptedRootKeyRow, ServiceKeyRow, VersionUseRow
from database.repository import Repository

_ROTATION = (
    "select number, tenant_key, services, service, compromised, scheduled, from_version, state, stage, total, done,"
    " problem, started_at, finished_at, root_key_version from okcm.rotation"
)
_NEWEST = "(select version from okcm.key where kind = 'L2')"
_OUTDATED = (
    "okcm.service_key where state <> 'destroyed'"
    f" and (l2_version < {_NEWEST} or root_key_version < %(root_key)s::integer)"
)
_OLD_CREDENTIALS = f"okcm.root_key where credentials is not null and l2_version < {_NEWEST}"
# A disconnected service encrypts nothing, so its key has no cryptoperiod.
_DUE = (
    "from okcm.service_key k join okcm.service s using (tenant_id, service) where k.state = 'active'"
    " and s.state <> 'disconnected' and k.activated_at < clock_timestamp() - %(age)s"
)


class RotationRequest(NamedTuple):
    """The scope of a rotation. `service` is set for `RotationScope.ONE` only."""

    tenant_key: bool
    services: RotationScope
    service: str | None = None
    compromised: bool = False
    scheduled: bool = False
    root_key_version: int | None = None
    """The minimum version of the root key for all wraps; None without such a requirement."""


class RotationRow(NamedTuple):
    """One rotation; `done` of `total` keys have completed its stage."""

    number: int
    wanted: RotationRequest
    from_version: int
    """The newest version of the tenant key at the start of the rotation."""
    state: str
    """`running`, `done` or `failed`."""
    stage: RotationPhase
    total: int
    done: int
    problem: str | None
    started_at: datetime
    finished_at: datetime | None


class DueRow(NamedTuple):
    """What the tenant's policy requires to rotate now, and whether a failed rotation left unfinished work."""

    tenant_key: bool
    services: bool
    unfinished: bool


class RewrappedRow(NamedTuple):
    """A service key with its new wrap by newer versions of tenant key or root key."""

    read: ServiceKeyRow
    wrapped: bytes
    l2_version: int


class Rotations(Repository):
    """The tenant's rotations. Several roles can read them; only the worker changes them.

    Each change of a key raises Superseded once its rotation has ended, because a timed-out attempt can still run.
    """

    def get(self, number: int) -> RotationRow | None:
        row = self.connection.execute(f"{_ROTATION} where number = %s", [number]).fetchone()
        return None if row is None else _rotation(row)

    def all(self, limit: int = 20) -> Sequence[RotationRow]:
        """Return the rotations, newest first."""
        return [
            _rotation(row) for row in self.connection.execute(f"{_ROTATION} order by number desc limit %s", [limit])
        ]

    def due(self, policy: TenantPolicy) -> DueRow:
        row = self.connection.execute(
            "select coalesce((select rotated_at < clock_timestamp() - %(l2)s from okcm.key where kind = 'L2'), false),"  # noqa: S608 - constants
            f" exists (select {_DUE}),"
            " coalesce((select oldest < version from okcm.key where kind = 'L2'), false)"
            " or exists (select from okcm.service_key where state = 'compromised'"
            " and okcm.objects_sealed(service, version) = 0)",
            {"l2": policy.tenant_key_age, "age": policy.service_key_age},
        ).fetchone()
        if row is None:
            raise DatabaseRefused
        return DueRow(*row)

    def begin(self, number: int, wanted: RotationRequest, from_version: int) -> RotationRow:
        """Record a rotation and return the stored one; a repeated number changes nothing.

        An earlier rotation that never ended is ended as failed.
        """
        for unfinished in self.running(number):
            self.end(unfinished, Superseded.code)
        self.connection.execute(
            "insert into okcm.rotation"
            " (tenant_id, number, tenant_key, services, service, compromised, scheduled, from_version,"
            " root_key_version)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                number,
                wanted.tenant_key,
                wanted.services,
                wanted.service,
                wanted.compromised,
                wanted.scheduled,
                from_version,
                wanted.root_key_version,
            ],
        )
        rotation = self._locked(number)
        if rotation.state != "running":
            raise DatabaseRefused("a rotation with this number has ended", "request a new rotation")
        return rotation

    def running(self, before: int) -> Sequence[int]:
        """Return the unfinished rotations before a number: their workflow was lost or terminated."""
        rows = self.connection.execute(
            "select number from okcm.rotation where state = 'running' and number < %s order by number", [before]
        )
        return [number for (number,) in rows]

    def enter(self, number: int, stage: RotationPhase) -> RotationRow:
        """Record the stage of a rotation."""
        if self._running(number).stage is not stage:
            self.connection.execute(
                "update okcm.rotation set stage = %s, done = 0, total = 0 where number = %s", [stage, number]
            )
        return self._known(number)

    def rotated(self, number: int, version: int) -> None:
        """Record the newest version of the tenant key, which encrypts from now on."""
        self._running(number)
        self.connection.execute(
            "update okcm.key set version = %(version)s, rotated_at = clock_timestamp()"
            " where kind = 'L2' and version < %(version)s",
            {"version": version},
        )

    def unprepared(self, number: int, policy: TenantPolicy) -> Sequence[tuple[str, int]]:
        """Return the services without a prepared next version, each with the number of that version."""
        rotation = self._known(number)
        wanted = {
            RotationScope.NONE: "false",
            RotationScope.DUE: "s.state <> 'disconnected' and k.activated_at < %(started)s::timestamptz - %(age)s",
            RotationScope.ALL: "true",
            RotationScope.ONE: "k.service = %(service)s",
        }[rotation.wanted.services]
        # A later activation is a result of this rotation, or of a service that was connected meanwhile.
        rows = self.connection.execute(
            "select k.service, (select max(v.version) + 1 from okcm.service_key v where v.service = k.service)"  # noqa: S608 - constants
            " from okcm.service_key k join okcm.service s using (tenant_id, service)"
            f" where k.state = 'active' and k.activated_at < %(started)s and {wanted}"
            " and not exists (select from okcm.service_key p where p.service = k.service and p.state = 'prepared')"
            " order by k.service",
            {
                "started": rotation.started_at,
                "age": policy.service_key_age,
                "service": rotation.wanted.service,
            },
        )
        return [(service, version) for service, version in rows]

    def prepare(self, number: int, key: ServiceKeyRow) -> RotationRow:
        """Record a version that is not used yet; the first one of its number is kept."""
        self._running(number)
        self.connection.execute(
            "insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped,"
            " root_key_id, l2_version, state, activated_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'prepared', null)"
            " on conflict do nothing",
            [
                self.tenant_id,
                key.service,
                key.version,
                key.l2_key,
                key.root_key_mode,
                key.root_key,
                key.wrapped,
                key.root_key_id,
                key.l2_version,
            ],
        )
        return self._known(number)

    def came(self, number: int, keys: int, left: int) -> RotationRow:
        """Add completed keys and set the number of remaining ones; return the progress."""
        self._running(number)
        self.connection.execute(
            "update okcm.rotation set done = done + %(keys)s, total = done + %(keys)s + %(left)s"
            " where number = %(number)s",
            {"keys": keys, "left": left, "number": number},
        )
        return self._known(number)

    def activate(self, number: int) -> Sequence[tuple[str, int]]:
        """Activate every prepared version at once and return the versions that encrypt from now on.

        The former versions only decrypt. If the rotation replaces compromised keys, these and all earlier versions no
        longer decrypt for callers.
        """
        rotation = self._running(number)
        succeeded = "service in (select p.service from okcm.service_key p where p.state = 'prepared')"
        former = KeyState.COMPROMISED if rotation.wanted.compromised else KeyState.DEACTIVATED
        # Two statements: the unique index that permits one active version checks each row when it is written. Other
        # transactions see both or neither.
        self.connection.execute(
            "update okcm.service_key set state = %(former)s,"  # noqa: S608 - constants
            " deactivated_at = coalesce(deactivated_at, clock_timestamp())"
            f" where (state = 'active' or (state = 'deactivated' and %(compromised)s)) and {succeeded}",
            {"former": former, "compromised": rotation.wanted.compromised},
        )
        rows = self.connection.execute(
            "update okcm.service_key set state = 'active', activated_at = clock_timestamp() where state = 'prepared'"
            " returning service, version"
        )
        return sorted((service, version) for service, version in rows)

    def outdated(self, limit: int, root_key_version: int | None = None) -> Sequence[ServiceKeyRow]:
        """Return service keys that an older version of the tenant key than the recorded newest one wrapped.

        Also those that an older version of the root key than `root_key_version` wrapped.
        """
        rows = self.connection.execute(
            "select service, version, l2_key, root_key_mode, root_key, wrapped, root_key_id"  # noqa: S608 - constants
            f" from {_OUTDATED} order by service, version limit %(limit)s",
            {"limit": limit, "root_key": root_key_version},
        )
        return [ServiceKeyRow(*row) for row in rows]

    def count_outdated(self, number: int) -> RotationRow:
        """Record how many service keys a rotation must wrap, completed and outdated ones; return the progress."""
        rotation = self._running(number)
        self.connection.execute(
            f"update okcm.rotation set total = done + (select count(*) from {_OUTDATED}) where number = %(number)s",  # noqa: S608 - a constant
            {"number": number, "root_key": rotation.wanted.root_key_version},
        )
        return self._known(number)

    def outdated_credentials(self) -> Sequence[EncryptedRootKeyRow]:
        """Return root keys whose credentials an older version of the tenant key encrypted."""
        rows = self.connection.execute(f"select root_key_id, place, credentials from {_OLD_CREDENTIALS}")  # noqa: S608 - a constant
        return [EncryptedRootKeyRow(root_key_id, parse_place(place), sealed) for root_key_id, place, sealed in rows]

    def rewrap(self, number: int, rows: Sequence[RewrappedRow]) -> RotationRow:
        """Replace wraps that are unchanged since they were read, and return the progress of the rotation."""
        rotation = self._running(number)
        # A wrap that is staged for a change of the root key derives from the replaced wrap: it must be created again.
        done = self.connection.execute(
            "update okcm.service_key k set wrapped = w.wrapped, l2_version = w.l2_version, staged_for = null,"
            " staged_wrapped = null"
            " from unnest(%(services)s::text[], %(versions)s::integer[], %(read)s::bytea[], %(wrapped)s::bytea[],"
            " %(l2)s::integer[]) as w (service, version, read, wrapped, l2_version)"
            " where k.service = w.service and k.version = w.version and k.wrapped = w.read",
            {
                "services": [row.read.service for row in rows],
                "versions": [row.read.version for row in rows],
                "read": [row.read.wrapped for row in rows],
                "wrapped": [row.wrapped for row in rows],
                "l2": [row.l2_version for row in rows],
            },
        ).rowcount
        return self.came(number, done, max(0, rotation.total - rotation.done - done))

    def rewrap_probe(self, number: int, root_key_id: str, read: bytes, probe: bytes) -> None:
        """Replace the canary ciphertext of a root key if it is unchanged since it was read."""
        self._running(number)
        self.connection.execute(
            "update okcm.root_key set probe = %s where root_key_id = %s and probe = %s", [probe, root_key_id, read]
        )

    def rewrap_credentials(self, number: int, read: EncryptedRootKeyRow, credentials: str, l2_version: int) -> None:
        """Replace credentials that are unchanged since they were read."""
        self._running(number)
        self.connection.execute(
            "update okcm.root_key set credentials = %s, l2_version = %s where root_key_id = %s and credentials = %s",
            [credentials, l2_version, read.root_key_id, read.credentials],
        )

    def retire_tenant_key(self, number: int) -> int | None:
        """Make the newest version of the tenant key the oldest and return it; None while an older one is in use.

        The caller holds the tenant's row lock. Every transaction that stores something encrypted by L2 takes it too.
        """
        self._running(number)
        left = self.connection.execute(
            f"select exists (select from {_OUTDATED}) or exists (select from {_OLD_CREDENTIALS}), {_NEWEST}",  # noqa: S608 - constants
            {"root_key": None},
        ).fetchone()
        if left is None or left[0]:
            return None
        self.connection.execute("update okcm.key set oldest = version where kind = 'L2' and oldest < version")
        return int(left[1])

    def compromised(self) -> Sequence[VersionUseRow]:
        rows = self.connection.execute(
            "select service, version, okcm.objects_sealed(service, version) from okcm.service_key"
            " where state = 'compromised' order by service, version"
        )
        return [VersionUseRow(*row) for row in rows]

    def destroy(self, service: str, version: int) -> int:
        """Delete the wrap of a version that is not active, unless it encrypts managed objects.

        Returns:
            The number of managed objects that it encrypts. It can encrypt no further object, now or later.
        """
        # FOR UPDATE waits for concurrent encryptions under this version and blocks later ones until it has ended
        # (okcm.refuse_ended_version), so the count is final.
        found = self.connection.execute(
            "select state from okcm.service_key where service = %s and version = %s for update", [service, version]
        ).fetchone()
        if found is None:
            raise KeyVersionUnknown
        if found[0] in {KeyState.ACTIVE, KeyState.PREPARED}:
            raise KeyVersionInUse(service, version, f"it is {found[0]}")
        [(objects,)] = self.connection.execute("select okcm.objects_sealed(%s, %s)", [service, version]).fetchall()
        if not objects:
            self._destroy("service = %s and version = %s and state <> 'destroyed'", [service, version])
        return int(objects)

    def end(self, number: int, problem: str | None = None) -> bool:
        """End a rotation, as failed if a problem is given; return False if it had ended. Destroys prepared versions."""
        if self._locked(number).state != "running":
            return False
        self._destroy("state = 'prepared'", [])
        self.connection.execute(
            "update okcm.rotation set state = %s, problem = %s, finished_at = clock_timestamp() where number = %s",
            ["done" if problem is None else "failed", problem, number],
        )
        return True

    def _destroy(self, which: str, values: list[Any]) -> None:
        self.connection.execute(
            "update okcm.service_key set state = 'destroyed', wrapped = null, staged_for = null, staged_wrapped = null,"  # noqa: S608 - constants
            f" destroyed_at = clock_timestamp() where {which}",
            values,
        )

    def _running(self, number: int) -> RotationRow:
        rotation = self._locked(number)
        if rotation.state != "running":
            raise Superseded
        return rotation

    def _locked(self, number: int) -> RotationRow:
        """Return a rotation and lock it until the transaction ends; take this lock before that of any key."""
        self.connection.execute("select from okcm.rotation where number = %s for no key update", [number])
        return self._known(number)

    def _known(self, number: int) -> RotationRow:
        rotation = self.get(number)
        if rotation is None:
            raise DatabaseRefused("this rotation does not exist", "begin it first")
        return rotation


def _rotation(row: tuple[Any, ...]) -> RotationRow:
    (
        number,
        tenant_key,
        services,
        service,
        compromised,
        scheduled,
        from_version,
        state,
        stage,
        *rest,
        root_key_version,
    ) = row
    wanted = RotationRequest(tenant_key, RotationScope(services), service, compromised, scheduled, root_key_version)
    return RotationRow(number, wanted, from_version, state, RotationPhase(stage), *rest)


class StalledRotationRow(NamedTuple):
    """A tenant with overdue rotations; `number` is its last rotation, `done` the last one that succeeded."""

    tenant_id: str
    why: StallReason
    number: int
    problem: str
    done: int
