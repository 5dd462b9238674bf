"""Connected services, their certificates and their keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from core.certificates import LATE_AT_SIXTHS, AuthorityState
from core.errors.keys import KeyVersionRetired
from core.errors.platform import DatabaseRefused, Superseded
from core.errors.services import ServiceConflict, ServiceUnknown
from core.keys.root_keys import parse_place
from core.keys.rotation import OPENING, KeyState
from core.services import ServiceState
from core.tenants.lifecycle import State
from database.keys import EncryptedRootKeyRow, KeyVersionRow, ServiceKeyRow
from database.repository import Repository
from openkcm.contract.services import ServiceKind

_SERVICE = (
    "select service, kind, state, connected_at, disconnected_at, last_seen_at, newest.not_after, newest.not_before"
    " from okcm.service s left join lateral (select not_after, not_before from okcm.service_certificate c"
    " where c.service = s.service and revoked_at is null order by generation desc limit 1) as newest on true"
)
# Renewals of a service that fetches none pile up, so only the newest certificates are read: at most two are valid.
_HELD = (
    "select s.service, held.until, held.days is not null from okcm.service s cross join lateral ("
    "  select min(c.not_after) filter (where c.not_after >= coalesce(s.last_seen_at, s.connected_at)) as until,"
    "  (array_agg(r.certificate_days order by c.generation desc))[1] as days from ("
    "   select generation, not_after, request_id from okcm.service_certificate n"
    "   where n.service = s.service and n.revoked_at is null order by generation desc limit 3) as c"
    "  left join okcm.service_request r on r.request_id = c.request_id) as held where s.state = 'connected'"
)
_LEAF_COLUMNS = "serial, service, generation, request_id, certificate_pem, not_before, not_after, authority, revoked_at"
_LEAF = f"select {_LEAF_COLUMNS} from okcm.service_certificate where service = %s"  # noqa: S608 - a constant
_KEY_COLUMNS = "service, version, l2_key, root_key_mode, root_key, wrapped, root_key_id, state, l2_version"
_KEY = f"select {_KEY_COLUMNS} from okcm.service_key where service = %s"  # noqa: S608 - a constant

# One query: between two, a change of the root key could delete the credentials of the former key, which the second
# reads.
_KEY_AND_ROOT = (
    "select k.service, k.version, k.l2_key, k.root_key_mode, k.root_key, k.wrapped, k.root_key_id, k.state,"
    " k.l2_version, r.place, r.credentials"
    " from okcm.service_key k left join okcm.root_key r using (tenant_id, root_key_id) where k.service = %s"
)
# Versions that may still encrypt objects but no new ones. A process that learned late of the end of a version can still
# store an object while it caches the version, for at most one minute.
_UNEMPTIED = "service = %s and state in ('deactivated', 'compromised') and emptied_at is null"
_SETTLED = "coalesce(deactivated_at, activated_at, created_at) < clock_timestamp() - interval '2 minutes'"

# One query, because each TLS handshake waits for it. The joins use the tenant that row-level security permits, so the
# serial of another tenant is not found.
_CALLER = (
    "select c.service, s.state, t.state, r.region, r.l2_key, r.issuer_fingerprint, r.former_issuer_fingerprint,"
    " a.certificate_pem, a.state, c.not_after, c.revoked_at, coalesce(p.revoked_keys_readable, false),"
    " coalesce(p.resources_recorded, false)"
    " from okcm.service_certificate c join okcm.service s using (tenant_id, service)"
    " join okcm.tenant t using (tenant_id) join okcm.route r using (tenant_id)"
    " join okcm.certificate_authority a on a.tenant_id = c.tenant_id and a.serial = c.authority"
    " left join okcm.tenant_policy p on p.tenant_id = c.tenant_id"
    " where c.tenant_id = %s and c.serial = %s"
)


class ServiceRow(NamedTuple):
    """A connected service. `certificate_not_after` belongs to its newest certificate that is not revoked."""

    service: str
    kind: ServiceKind
    state: ServiceState
    connected_at: datetime | None
    disconnected_at: datetime | None
    last_seen_at: datetime | None
    certificate_not_after: datetime | None
    certificate_not_before: datetime | None


class ExpiringRow(NamedTuple):
    """A connected service whose newest certificate is late or has expired, with its end."""

    service: str
    kind: ServiceKind
    not_after: datetime


class ServiceRequestRow(NamedTuple):
    """The stored request for a service; workflows receive only its id and read the rest here."""

    request_id: str
    service: str
    kind: ServiceKind
    csr_pem: str
    certificate_days: int | None = None
    """The lifetime of the certificates for an appliance that cannot renew them; None for the usual one."""


class ServiceCertificateRow(NamedTuple):
    """A service's certificate; only recorded serials are accepted. `generation` counts from 1 for each service."""

    serial: str
    service: str
    generation: int
    request_id: str
    certificate_pem: str
    not_before: datetime
    not_after: datetime
    authority: str
    """The serial of the authority that signed it."""
    revoked_at: datetime | None = None


class HeldCertificateRow(NamedTuple):
    """What is known of the certificate on a service's machine, which need not be the newest one."""

    until: datetime | None
    """The end of the oldest certificate that the service can still use, as it was last seen."""
    by_hand: bool
    """It is that of an appliance: the platform does not renew it."""


class ClientIdentityRow(NamedTuple):
    """All data that determine the rights of a client certificate, read in one query by its serial."""

    service: str
    service_state: ServiceState
    tenant_state: State
    region: str
    l2_key: str
    issuer_fingerprint: str
    former_issuer_fingerprint: str | None
    authority_pem: str
    authority_state: AuthorityState
    not_after: datetime
    revoked_at: datetime | None
    revoked_keys_readable: bool
    resources_recorded: bool = False


class Services(Repository):
    def request(self, request: ServiceRequestRow) -> None:
        """Store a request (operator); a repeated request id changes nothing."""
        columns = ["tenant_id", "request_id", "service", "kind", "csr_pem"]
        values: list[Any] = [self.tenant_id, request.request_id, request.service, request.kind, request.csr_pem]
        if request.certificate_days is not None:  # only people may choose it; no process that enrols agents may
            columns.append("certificate_days")
            values.append(request.certificate_days)
        self.connection.execute(
            f"insert into okcm.service_request ({', '.join(columns)})"  # noqa: S608 - constants
            f" values ({', '.join(['%s'] * len(values))}) on conflict do nothing",
            values,
        )

    def requested(self, request_id: str) -> ServiceRequestRow:
        """Return a stored request; raise ServiceUnknown if it does not exist."""
        found = self.connection.execute(
            "select request_id, service, kind, csr_pem, certificate_days from okcm.service_request"
            " where request_id = %s",
            [request_id],
        ).fetchone()
        if found is None:
            raise ServiceUnknown
        kept, service, kind, csr_pem, days = found
        return ServiceRequestRow(kept, service, ServiceKind(kind), csr_pem, days)

    def connect(self, service: str, kind: ServiceKind) -> ServiceRow:
        """Create the service in state connecting, or return a disconnected one to it; a connected one is unchanged.

        Raises:
            ServiceConflict: the service has another kind.
        """
        self.connection.execute(
            "insert into okcm.service (tenant_id, service, kind) values (%s, %s, %s) on conflict do nothing",
            [self.tenant_id, service, kind],
        )
        if self._lock(service)[0] is not kind:
            raise ServiceConflict
        self.connection.execute(
            "update okcm.service set state = 'connecting', disconnected_at = null"
            " where service = %s and state = 'disconnected'",
            [service],
        )
        return self._existing(service)

    def connected(self, service: str) -> None:
        """Mark a connecting service, which now has key and certificate, as connected."""
        if self._lock(service)[1] is ServiceState.CONNECTING:
            self.connection.execute(
                "update okcm.service set state = 'connected', connected_at = clock_timestamp() where service = %s",
                [service],
            )

    def disconnect(self, service: str) -> bool:
        """Revoke all certificates and mark the service disconnected, atomically; return False if it already was."""
        self._lock(service)
        return bool(self.disconnect_all([service]))

    def disconnect_all(self, services: Sequence[str]) -> Sequence[str]:
        """Disconnect services as `disconnect` does and return those that were not disconnected, by name."""
        # In a fixed order, so that two processes that lock the same services do not deadlock.
        self.connection.execute(
            "select from okcm.service where service = any(%s) order by service for no key update", [list(services)]
        )
        # Also for a disconnected service: a superseded enrolment can have left a certificate.
        self.connection.execute(
            "update okcm.service_certificate set revoked_at = clock_timestamp()"
            " where service = any(%s) and revoked_at is null",
            [list(services)],
        )
        rows = self.connection.execute(
            "update okcm.service set state = 'disconnected', disconnected_at = clock_timestamp()"
            " where service = any(%s) and state <> 'disconnected' returning service",
            [list(services)],
        )
        return sorted(service for (service,) in rows)

    def get(self, service: str) -> ServiceRow | None:
        found = self.connection.execute(f"{_SERVICE} where service = %s", [service]).fetchone()
        return None if found is None else _service(found)

    def connected_count(self) -> int:
        """Return the number of connected services."""
        row = self.connection.execute("select count(*) from okcm.service where state = 'connected'").fetchone()
        return 0 if row is None else int(row[0])

    def expiring(self, now: datetime, limit: int) -> Sequence[ExpiringRow]:
        """Return connected services whose certificate is late (`core.certificates`) or has expired, earliest first."""
        rows = self.connection.execute(
            "select s.service, s.kind, newest.not_after from okcm.service s cross join lateral ("
            "select not_after, not_before from okcm.service_certificate c where c.service = s.service"
            " and c.revoked_at is null order by c.generation desc limit 1) as newest"
            " where s.state = 'connected'"
            " and (newest.not_after - %(now)s) * %(sixths)s < newest.not_after - newest.not_before"
            " order by newest.not_after, s.service limit %(limit)s",
            {"now": now, "sixths": LATE_AT_SIXTHS, "limit": limit},
        )
        return [ExpiringRow(service, ServiceKind(kind), not_after) for service, kind, not_after in rows]

    def all(self) -> Sequence[ServiceRow]:
        """Return the services by name."""
        return [_service(row) for row in self.connection.execute(f"{_SERVICE} order by service")]

    def held(self) -> Mapping[str, HeldCertificateRow]:
        """Return for each connected service what is known of the certificate on its machine."""
        return {name: HeldCertificateRow(*row) for name, *row in self.connection.execute(_HELD)}

    def names(self, after: str, limit: int) -> Sequence[str]:
        """Return up to `limit` names of services, in order, after `after`."""
        rows = self.connection.execute(
            "select service from okcm.service where service > %s order by service limit %s", [after, limit]
        )
        return [service for (service,) in rows]

    def record_leaf(self, leaf: ServiceCertificateRow) -> ServiceCertificateRow:
        """Record a certificate and return the recorded one for its service and generation, which is the first."""
        self.connection.execute(
            "insert into okcm.service_certificate"
            " (tenant_id, serial, service, generation, request_id, certificate_pem, not_before, not_after, authority)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                leaf.serial,
                leaf.service,
                leaf.generation,
                leaf.request_id,
                leaf.certificate_pem,
                leaf.not_before,
                leaf.not_after,
                leaf.authority,
            ],
        )
        kept = self.connection.execute(f"{_LEAF} and generation = %s", [leaf.service, leaf.generation]).fetchone()
        if kept is None:
            raise DatabaseRefused
        return ServiceCertificateRow(*kept)

    def leaf(self, service: str) -> ServiceCertificateRow | None:
        """Return the newest certificate of a service that is not revoked."""
        found = self.connection.execute(
            f"{_LEAF} and revoked_at is null order by generation desc limit 1", [service]
        ).fetchone()
        return None if found is None else ServiceCertificateRow(*found)

    def valid_leaves(self, at: datetime, services: Sequence[str] | None = None) -> Sequence[ServiceCertificateRow]:
        """Return the certificates that are neither revoked nor expired, of all services or of `services`."""
        rows = self.connection.execute(
            f"select {_LEAF_COLUMNS} from okcm.service_certificate where revoked_at is null and not_after > %(at)s"  # noqa: S608 - a constant
            " and (%(services)s::text[] is null or service = any(%(services)s)) order by service, generation",
            {"at": at, "services": None if services is None else list(services)},
        )
        return [ServiceCertificateRow(*row) for row in rows]

    def issued(self, service: str, request_id: str) -> tuple[ServiceCertificateRow, str]:
        """Return the certificate issued for a request, and its issuer chain, which ends in the root.

        Raises:
            ServiceUnknown: the service was disconnected meanwhile.
            Superseded: another request received the newest certificate.
        """
        leaf = self.leaf(service)
        if leaf is None:
            raise ServiceUnknown("the service was disconnected meanwhile", "connect it again")
        if leaf.request_id != request_id:
            raise Superseded("a later request for this service received a certificate", "connect it again")
        chain = self.connection.execute(
            "select chain_pem from okcm.certificate_authority where serial = %s", [leaf.authority]
        ).fetchone()
        if chain is None:
            raise DatabaseRefused
        return leaf, str(chain[0])

    def generation(self, service: str) -> int:
        """Return the generation of a service's newest certificate, including revoked ones; 0 before the first."""
        newest = self.connection.execute(
            "select coalesce(max(generation), 0) from okcm.service_certificate where service = %s", [service]
        ).fetchone()
        return 0 if newest is None else int(newest[0])

    def record_key(self, key: ServiceKeyRow) -> ServiceKeyRow:
        """Record an L3 key and return the recorded one for its service and version, which is the first.

        An active key encrypts from now on. If `l2_version` is lower than the version that wrapped the key, the only
        effect is one more re-wrap.
        """
        self.connection.execute(
            f"insert into okcm.service_key (tenant_id, {_KEY_COLUMNS}, activated_at)"  # noqa: S608 - a constant
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, case when %s then clock_timestamp() end)"
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
                key.state,
                key.l2_version,
                key.state is not KeyState.PREPARED,
            ],
        )
        kept = self.connection.execute(f"{_KEY} and version = %s", [key.service, key.version]).fetchone()
        if kept is None:
            raise DatabaseRefused
        return _service_key(kept)

    def key(self, service: str, version: int | None = None) -> ServiceKeyRow | None:
        """Return the active L3 key of a service, or a version that still decrypts."""
        found = self._one(_KEY, "", service, version)
        key = None if found is None else _service_key(found)
        return key if key is not None and key.state in OPENING else None

    def key_and_root(
        self, service: str, version: int | None = None
    ) -> tuple[ServiceKeyRow, EncryptedRootKeyRow | None] | None:
        """Return an L3 key as `key` does, and the data to use its root key, both as of one moment.

        The second is None for the platform's root key, and for a root key whose credentials were deleted.

        Raises:
            KeyVersionRetired: the version is destroyed. For an unknown version, the result is None.
        """
        found = self._one(_KEY_AND_ROOT, "k.", service, version)
        if found is None:
            return None
        key, (place, credentials) = _service_key(found[:-2]), found[-2:]
        if key.state is KeyState.DESTROYED:
            raise KeyVersionRetired
        if key.state not in OPENING:
            return None
        if key.root_key_id is None or credentials is None:
            return key, None
        return key, EncryptedRootKeyRow(key.root_key_id, parse_place(place), credentials)

    def keys(self) -> Sequence[KeyVersionRow]:
        """Return every version of every L3 key by service and version, without the wraps."""
        rows = self.connection.execute(
            "select service, version, l2_key, root_key_mode, root_key, created_at, state, l2_version, activated_at,"
            " deactivated_at, destroyed_at, last_opened_at, emptied_at from okcm.service_key order by service, version"
        )
        return [_key_version(row) for row in rows]

    def opened(self, service: str, version: int) -> None:
        """Record that a version was unwrapped, at most once per minute."""
        self.connection.execute(
            "update okcm.service_key set last_opened_at = clock_timestamp() where service = %s and version = %s"
            " and (last_opened_at is null or last_opened_at < clock_timestamp() - interval '1 minute')",
            [service, version],
        )

    def unemptied(self, service: str) -> Sequence[int]:
        """Return versions that may still encrypt objects but no new ones, compromised versions first."""
        rows = self.connection.execute(
            f"select version from okcm.service_key where {_UNEMPTIED} order by state, version",  # noqa: S608 - a constant
            [service],
        )
        return [version for (version,) in rows]

    def note_emptied(self, service: str) -> Sequence[int]:
        """Record which of the `unemptied` versions encrypt no objects and return them; afterwards they cannot."""
        # The first scan runs without a lock: after very many updates it takes seconds, the second one does not.
        empty = [version for version in self.unemptied(service) if not self._seals(service, version)]
        # Then with a lock: a transaction that stores an object holds a share lock on its version's row, and is seen.
        locked = self.connection.execute(
            f"select version from okcm.service_key where {_UNEMPTIED} and {_SETTLED} and version = any(%s)"  # noqa: S608 - constants
            " order by version for no key update",
            [service, empty],
        ).fetchall()
        emptied = [version for (version,) in locked if not self._seals(service, version)]
        self.connection.execute(
            "update okcm.service_key set emptied_at = clock_timestamp() where service = %s and version = any(%s)",
            [service, emptied],
        )
        return emptied

    def caller(self, serial: str) -> ClientIdentityRow | None:
        """Return the rights of a recorded certificate; None if it is unknown or the tenant has no route."""
        found = self.connection.execute(_CALLER, [self.tenant_id, serial]).fetchone()
        if found is None:
            return None
        service, service_state, tenant_state, region, l2_key, issuer, former, authority_pem, state, *others = found
        return ClientIdentityRow(
            service,
            ServiceState(service_state),
            State(tenant_state),
            region,
            l2_key,
            issuer,
            former,
            authority_pem,
            AuthorityState(state),
            *others,
        )

    def seen(self, services: Sequence[str], at: datetime) -> None:
        """Move `last_seen_at` of services forward."""
        # Locked in a fixed order, so that two processes that saw the same services do not deadlock.
        self.connection.execute(
            "update okcm.service s set last_seen_at = %(at)s from (select service from okcm.service"
            "  where service = any(%(services)s) and (last_seen_at is null or last_seen_at < %(at)s)"
            "  order by service for no key update) as older where s.service = older.service",
            {"at": at, "services": list(services)},
        )

    def _seals(self, service: str, version: int) -> bool:
        """Return whether a version encrypts an object; the order makes the query use the index only."""
        found = self.connection.execute(
            "select from okcm.managed_object where service = %s and key_version = %s and material is not null"
            " order by object_id limit 1",
            [service, version],
        )
        return found.fetchone() is not None

    def _one(self, query: str, table: str, service: str, version: int | None) -> tuple[Any, ...] | None:
        """Return the row of a version, or of the active one without `version`; `table` is its alias in the query."""
        if version is None:
            return self.connection.execute(f"{query} and {table}state = 'active'", [service]).fetchone()
        # bigint, because the version comes from a caller and may exceed an integer.
        return self.connection.execute(f"{query} and {table}version = %s::bigint", [service, version]).fetchone()

    def _lock(self, service: str) -> tuple[ServiceKind, ServiceState]:
        found = self.connection.execute(
            "select kind, state from okcm.service where service = %s for no key update", [service]
        ).fetchone()
        if found is None:
            raise ServiceUnknown
        return ServiceKind(found[0]), ServiceState(found[1])

    def _existing(self, service: str) -> ServiceRow:
        found = self.get(service)
        if found is None:
            raise ServiceUnknown
        return found


def _service_key(row: tuple[Any, ...]) -> ServiceKeyRow:
    service, version, l2_key, mode, root_key, wrapped, root_key_id, state, l2_version = row
    return ServiceKeyRow(service, version, l2_key, mode, root_key, wrapped, root_key_id, KeyState(state), l2_version)


def _key_version(row: tuple[Any, ...]) -> KeyVersionRow:
    service, version, l2_key, mode, root_key, created_at, state, *rest = row
    return KeyVersionRow(service, version, l2_key, mode, root_key, created_at, KeyState(state), *rest)


def _service(row: tuple[Any, ...]) -> ServiceRow:
    service, kind, state, *rest = row
    return ServiceRow(service, ServiceKind(kind), ServiceState(state), *rest)
