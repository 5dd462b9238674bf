"""The customer's root keys, and the change from one to another.

A change stores its new wraps beside the current ones until all exist; one statement then replaces all wraps. A reader
therefore sees either all keys wrapped by the former root key or all keys wrapped by the new one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from core.errors.keys import RootKeyRequestUnknown
from core.errors.platform import DatabaseRefused, Superseded
from core.errors.tenants import TenantUnknown
from core.keys.root_keys import Place, Problem, RootKeyMode, RootKeyState, parse_place
from core.names import root_key
from database.keys import EncryptedRootKeyRow, ServiceKeyRow
from database.repository import Repository

_HELD = "select root_key_id, mode, name, place, state, health, health_since, created_at from okcm.root_key"
_CHANGE = (
    "select number, from_mode, from_name, to_mode, to_name, root_key_id, state, total, wrapped, problem, started_at,"
    " finished_at from okcm.root_key_change"
)
_SERVICE_KEY = "select service, version, l2_key, root_key_mode, root_key, wrapped, root_key_id"
_UNSTAGED = "state <> 'destroyed' and staged_for is distinct from %(number)s"


@dataclass(frozen=True, slots=True)
class RootKeyRequestRow:
    """A request of an operator or tenant. `sealed` (encrypted credentials) is None after the worker has read it."""

    request_id: str
    place: Place
    sealed: str | None = field(repr=False)


class CustomerRootKeyRow(NamedTuple):
    """The public data of a customer's root key. `health` is `ok` or the code of its last failure."""

    root_key_id: str
    mode: RootKeyMode
    name: str
    place: Place
    state: RootKeyState
    health: str
    health_since: datetime
    created_at: datetime


class RootKeyChangeRow(NamedTuple):
    """One change of the root key; the new key has wrapped `wrapped` of `total` service keys."""

    number: int
    from_mode: RootKeyMode
    from_name: str
    to_mode: RootKeyMode
    to_name: str
    root_key_id: str | None
    state: str
    """`running`, `done` or `failed`."""
    total: int
    wrapped: int
    problem: str | None
    started_at: datetime
    finished_at: datetime | None


class RootKeyVersionsRow(NamedTuple):
    """Versions of the current root key that wrapped a tenant's keys and encrypted its canary ciphertext."""

    newest: int
    """The newest known version."""
    older: int
    """How many of the wraps an older version created."""
    wraps: int


class RootKeys(Repository):
    """The tenant's root keys. Several roles can read them; only the worker changes them."""

    def request(self, request: RootKeyRequestRow) -> None:
        """Store a request (operator, dashboard); a repeated request id changes nothing."""
        self.connection.execute(
            "insert into okcm.root_key_request (tenant_id, request_id, place, sealed) values (%s, %s, %s, %s)"
            " on conflict do nothing",
            [self.tenant_id, request.request_id, request.place.model_dump_json(), request.sealed],
        )

    def problems(self, request_id: str) -> Sequence[Problem] | None:
        """Return the findings of a request's preflight; None until it has finished."""
        row = self.connection.execute(
            "select problems from okcm.root_key_request where request_id = %s", [request_id]
        ).fetchone()
        if row is None:
            raise RootKeyRequestUnknown
        return None if row[0] is None else [Problem.model_validate(problem) for problem in row[0]]

    def current(self) -> CustomerRootKeyRow | None:
        """Return the customer's current root key; None means the platform's key."""
        return self._held("state = 'current'", [])

    def mark_viewed(self) -> None:
        """Have the current root key checked as often as one in use, for the next 90 seconds (dashboard).

        It waits for no other transaction: the next mark of an open page follows within half a minute.
        """
        self.connection.execute(
            "update okcm.root_key set viewed_at = clock_timestamp() where root_key_id ="
            " (select root_key_id from okcm.root_key where state = 'current' for no key update skip locked)"
        )

    def shard(self, shards: int) -> int:
        """Return the number of the part of the root key monitoring that checks this tenant (`monitored_root_keys`)."""
        row = self.connection.execute(
            "select mod(hashtextextended(%s, 0) & 2147483647, %s)", [self.tenant_id, shards]
        ).fetchone()
        return 0 if row is None else int(row[0])

    def held(self, root_key_id: str) -> CustomerRootKeyRow | None:
        return self._held("root_key_id = %s", [root_key_id])

    def changes(self, limit: int = 20) -> Sequence[RootKeyChangeRow]:
        """Return the changes, newest first."""
        rows = self.connection.execute(f"{_CHANGE} order by number desc limit %s", [limit])
        return [_change(row) for row in rows]

    def versions(self) -> RootKeyVersionsRow | None:
        """Return the versions that created the wraps; None without a wrap or without numbered versions."""
        row = self.connection.execute(
            "with wraps (version) as (select root_key_version from okcm.service_key union all"
            " select probe_version from okcm.root_key where state = 'current'),"
            " known (newest) as (select greatest((select max(version) from wraps),"
            " (select root_key_newest from okcm.tenant where tenant_id = %s)))"
            " select newest, count(*) filter (where version < newest), count(version) from wraps, known"
            " group by newest",
            [self.tenant_id],
        ).fetchone()
        return RootKeyVersionsRow(*row) if row is not None and row[2] else None

    def requested(self, request_id: str) -> RootKeyRequestRow:
        """Return a request with its encrypted credentials; raise RootKeyRequestUnknown if it does not exist."""
        row = self.connection.execute(
            "select place, sealed from okcm.root_key_request where request_id = %s", [request_id]
        ).fetchone()
        if row is None:
            raise RootKeyRequestUnknown
        return RootKeyRequestRow(request_id, parse_place(row[0]), row[1])

    def found(self, request_id: str, problems: Sequence[Problem]) -> None:
        """Store the findings of a request's preflight and delete its encrypted credentials."""
        self.connection.execute(
            "update okcm.root_key_request set problems = %s, sealed = null where request_id = %s",
            [json.dumps([problem.model_dump() for problem in problems]), request_id],
        )

    def forget_untaken(self) -> int:
        """Delete encrypted credentials that were not collected within 15 minutes, and return their number."""
        return self.connection.execute(
            "update okcm.root_key_request set sealed = null"
            " where sealed is not null and requested_at < now() - interval '15 minutes'"
        ).rowcount

    def admit(self, row: EncryptedRootKeyRow, l2_version: int = 1) -> None:
        """Record a candidate under the id of its request, and delete the request's credentials; idempotent.

        `l2_version` is the version of the tenant key that encrypted the credentials.
        """
        self.connection.execute(
            "insert into okcm.root_key (tenant_id, root_key_id, mode, name, place, credentials, l2_version)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                row.root_key_id,
                row.place.provider,
                row.place.name,
                row.place.model_dump_json(),
                row.credentials,
                l2_version,
            ],
        )
        self.connection.execute(
            "update okcm.root_key_request set sealed = null where request_id = %s", [row.root_key_id]
        )

    def forget(self, request_id: str) -> None:
        """Delete a request's encrypted credentials, which are no longer needed."""
        self.connection.execute("update okcm.root_key_request set sealed = null where request_id = %s", [request_id])

    def prove(self, root_key_id: str, probe: bytes, digest: bytes) -> None:
        """Store the canary ciphertext of the root key and the SHA-256 of its plaintext; the first one is kept."""
        self.connection.execute(
            "update okcm.root_key set probe = %s, probe_digest = %s where root_key_id = %s and probe is null",
            [probe, digest, root_key_id],
        )

    def sealed(self, root_key_id: str) -> EncryptedRootKeyRow | None:
        """Return a key's reference and credentials; None if it does not exist or its credentials are deleted."""
        row = self.connection.execute(
            "select root_key_id, place, credentials from okcm.root_key"
            " where root_key_id = %s and credentials is not null",
            [root_key_id],
        ).fetchone()
        return None if row is None else EncryptedRootKeyRow(row[0], parse_place(row[1]), row[2])

    def probe(self, root_key_id: str) -> tuple[bytes, bytes] | None:
        """Return the canary ciphertext and the digest; None until they exist."""
        row = self.connection.execute(
            "select probe, probe_digest from okcm.root_key where root_key_id = %s and probe is not null", [root_key_id]
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def notice(self, root_key_id: str | None, newest: int) -> bool:
        """Record the newest version of the current root key; return False if nothing changed or it is not current.

        The caller holds the tenant's row lock, which a change of the root key takes as well.
        """
        changed = self.connection.execute(
            "update okcm.tenant set root_key_newest = %(newest)s where tenant_id = %(tenant)s"
            " and root_key_newest is distinct from %(newest)s"
            " and (select root_key_id from okcm.root_key where state = 'current') is not distinct from %(key)s",
            {"newest": newest, "tenant": self.tenant_id, "key": root_key_id},
        )
        return changed.rowcount == 1

    def report(self, root_key_id: str, health: str) -> bool:
        """Record the health of a root key; return False if it is unchanged."""
        changed = self.connection.execute(
            "update okcm.root_key set health = %s, health_since = clock_timestamp()"
            " where root_key_id = %s and health <> %s",
            [health, root_key_id, health],
        )
        return changed.rowcount == 1

    def begin(self, number: int, to_mode: RootKeyMode, to_name: str, root_key_id: str | None) -> RootKeyChangeRow:
        """Record a change from the current root key and return the stored one; a repeated number changes nothing.

        An earlier change that never ended is abandoned.
        """
        tenant = self.connection.execute("select root_key_mode, region from okcm.tenant").fetchone()
        if tenant is None:
            raise TenantUnknown
        for unfinished in self.running(number):
            self.abandon(unfinished, Superseded.code)
        current = self.current()
        self.connection.execute(
            "insert into okcm.root_key_change (tenant_id, number, from_mode, from_name, to_mode, to_name, root_key_id)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                number,
                tenant[0],
                root_key(tenant[1]) if current is None else current.name,
                to_mode,
                to_name,
                root_key_id,
            ],
        )
        return self._progress(number)

    def running(self, before: int) -> Sequence[int]:
        """Return the unfinished changes before a number: their workflow was lost or terminated."""
        rows = self.connection.execute(
            "select number from okcm.root_key_change where state = 'running' and number < %s order by number", [before]
        )
        return [number for (number,) in rows]

    def change(self, number: int) -> RootKeyChangeRow | None:
        row = self.connection.execute(f"{_CHANGE} where number = %s", [number]).fetchone()
        return None if row is None else _change(row)

    def unstaged(self, number: int, limit: int) -> Sequence[ServiceKeyRow]:
        """Return service keys that have no wrap for this change yet."""
        rows = self.connection.execute(
            f"{_SERVICE_KEY} from okcm.service_key where {_UNSTAGED} order by service, version limit %(limit)s",
            {"number": number, "limit": limit},
        )
        return [ServiceKeyRow(*row) for row in rows]

    def stage(self, number: int, wraps: Sequence[tuple[ServiceKeyRow, bytes]]) -> RootKeyChangeRow:
        """Store new wraps beside the current ones and return the progress of the change.

        Skips a key whose current wrap differs from the wrap that the caller read.

        Raises:
            Superseded: the change has ended.
        """
        # A timed-out attempt can still run: its wraps must not be stored after the change has ended.
        if self._locked(number).state != "running":
            raise Superseded
        self.connection.execute(
            "update okcm.service_key k set staged_for = %(number)s, staged_wrapped = w.staged"
            " from unnest(%(services)s::text[], %(versions)s::integer[], %(read)s::bytea[], %(staged)s::bytea[])"
            " as w (service, version, wrapped, staged)"
            " where k.service = w.service and k.version = w.version and k.wrapped = w.wrapped",
            {
                "number": number,
                "services": [row.service for row, _ in wraps],
                "versions": [row.version for row, _ in wraps],
                "read": [row.wrapped for row, _ in wraps],
                "staged": [staged for _, staged in wraps],
            },
        )
        self.connection.execute(
            "update okcm.root_key_change c set (total, wrapped) ="  # noqa: S608 - constants
            f" (select count(*), count(*) filter (where not ({_UNSTAGED})) from okcm.service_key"
            " where state <> 'destroyed')"
            " where number = %(number)s",
            {"number": number},
        )
        return self._progress(number)

    def staged(self, number: int) -> tuple[ServiceKeyRow, bytes] | None:
        """Return any service key with its wrap for this change; None if none exists."""
        row = self.connection.execute(
            f"{_SERVICE_KEY}, staged_wrapped from okcm.service_key where staged_for = %s"
            " order by service, version limit 1",
            [number],
        ).fetchone()
        return None if row is None else (ServiceKeyRow(*row[:-1]), row[-1])

    def switch(self, number: int) -> bool:
        """Apply the new root key to all service keys and the tenant; return False if a key has no new wrap.

        The former key is retired and its credentials are deleted. A repeated call returns True and changes nothing.
        """
        change = self._locked(number)
        if change.state == "done":
            return True
        left = self.connection.execute(
            f"select from okcm.service_key where {_UNSTAGED} limit 1",
            {"number": number},
        ).fetchone()
        if left is not None or change.state != "running":
            return False
        self.connection.execute(
            "update okcm.service_key set root_key_mode = %s, root_key = %s, root_key_id = %s, wrapped = staged_wrapped,"
            " staged_for = null, staged_wrapped = null where staged_for = %s",
            [change.to_mode, change.to_name, change.root_key_id, number],
        )
        self.connection.execute(
            "update okcm.root_key set state = 'retired', credentials = null"
            " where state = 'current' and root_key_id is distinct from %s",
            [change.root_key_id],
        )
        self.connection.execute(
            "update okcm.root_key set state = 'current', health = 'ok', health_since = clock_timestamp()"
            " where root_key_id = %s",
            [change.root_key_id],
        )
        # The versions of the new key have separate numbers.
        self.connection.execute("update okcm.tenant set root_key_mode = %s, root_key_newest = null", [change.to_mode])
        self._end(number, "done", None)
        return True

    def abandon(self, number: int, problem: str) -> bool:
        """End a change without effect and delete its wraps and its candidate; return False if it had ended."""
        if self.change(number) is None:
            return False
        change = self._locked(number)
        if change.state != "running":
            return False
        self.connection.execute(
            "update okcm.service_key set staged_for = null, staged_wrapped = null where staged_for = %s", [number]
        )
        self.connection.execute(
            "update okcm.root_key set state = 'retired', credentials = null"
            " where root_key_id = %s and state = 'candidate'",
            [change.root_key_id],
        )
        self._end(number, "failed", problem)
        return True

    def _end(self, number: int, state: str, problem: str | None) -> None:
        self.connection.execute(
            "update okcm.root_key_change set state = %s, problem = %s, finished_at = clock_timestamp()"
            " where number = %s",
            [state, problem, number],
        )

    def _locked(self, number: int) -> RootKeyChangeRow:
        """Return a change and lock it until the transaction ends; take this lock before that of any service key."""
        self.connection.execute("select from okcm.root_key_change where number = %s for no key update", [number])
        return self._progress(number)

    def _progress(self, number: int) -> RootKeyChangeRow:
        change = self.change(number)
        if change is None:
            raise DatabaseRefused("this change of the root key does not exist", "begin it first")
        return change

    def _held(self, where: str, values: list[str]) -> CustomerRootKeyRow | None:
        row = self.connection.execute(f"{_HELD} where {where}", values).fetchone()
        if row is None:
            return None
        root_key_id, mode, name, place, state, *rest = row
        return CustomerRootKeyRow(root_key_id, RootKeyMode(mode), name, parse_place(place), RootKeyState(state), *rest)


def _change(row: tuple[Any, ...]) -> RootKeyChangeRow:
    number, from_mode, from_name, to_mode, *rest = row
    return RootKeyChangeRow(number, RootKeyMode(from_mode), from_name, RootKeyMode(to_mode), *rest)


class MonitoredRootKey(NamedTuple):
    """A root key to be checked. `held`: the tenant is locked because of it."""

    tenant_id: str
    root_key_id: str
    endpoint: str
    """Its key server; equal for all root keys that a slow server delays."""
    health: str
    health_since: datetime
    held: bool
    used_seconds: float
    """How long a process may still have a service key in memory, or a page of the tenant may be open; 0 or less for an
    idle tenant.
    """


class RootKeyRead(NamedTuple):
    """A read of the root keys in one of `shards` parts of a region: changes, single tenants, and a page of all."""

    region: str
    shard: int
    shards: int
    lately: timedelta
    """How long a process may have a service key in memory after its last use."""
    since: str | None
    """`until` of the read before; None reads no changes."""
    tenants: Sequence[str]
    after: str
    limit: int
    """Root keys of the page behind the tenant `after`; 0 for no page."""


class RootKeyChanges(NamedTuple):
    """The result of a read."""

    until: str
    """The next read continues here: the number of a transaction."""
    found: Mapping[str, MonitoredRootKey | None]
    """By tenant; None for a tenant without a root key to be checked."""
    listed: Sequence[str]
    """The tenants of the page, in their order."""


class VersionedRootKey(NamedTuple):
    """A root key with numbered versions; `root_key_id` None means the platform's key of the region."""

    tenant_id: str
    region: str
    root_key_id: str | None
    oldest: int
    """The version that created the oldest wrap."""
    noticed: int | None
    """The newest recorded version, if it was ever newer than that of a wrap."""
