"""The part of the isolation assessment that attacks a tenant's keys and wraps (U1 to U5, E1, E2, A2, M1).

Called with a tenant's id it returns a result for every check. A check without a positive control is reported as not
checked: the key is disabled, the tenant is locked, or the root key is unreachable.
"""

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from activities.keys import ActiveRootKey, context_of, root_key_in_force
from compliance.isolation.postgres.key_lineage import KeyLineageSuite
from compliance.isolation.vault.key_controls import VaultKeyControlSuite
from core import names as ids
from core.errors.keys import CustomerKeyError, KeyUnavailable, RootKeyDisabled, WrongContext
from core.errors.platform import Superseded
from core.errors.tenants import TenantUnknown
from core.isolation import CheckResult, unchecked
from core.keys.rotation import OPENING
from core.tenants.lifecycle import DECRYPTS
from database.connection.database import Database
from database.connection.transaction import TenantTransaction
from database.keys import Fingerprinted, KeyProbeRow, KeyRow, ServiceKeyRow
from database.platform.scheduled import PlatformQueries
from kms.key_cache import RootKeyCache
from openkcm.contract.names import RESERVED_PREFIX
from vault.transit.keys import KeyFindings, KeyTarget, ciphertext_version
from vault.transit.tenant_keys import TransitFingerprints, TransitTenantKeys

_TRIED = 50
"""Other tenants whose canary ciphertexts one assessment tests: each one adds 400 bytes to the key server's log."""
_VERSIONS = 20
"""Number of newest key versions whose fingerprints are compared."""
_PROBE_SERVICE = "boundary-fresh"
_WRAP_CHECKS = (
    ("E1", "open-without-root-key"),
    ("E1", "open-without-tenant-key"),
    ("E2", "open-wrap-as-another-tenant"),
)
_RECORDED_VERSIONS = ("U3", "versions-recorded")
_FINGERPRINT = ("U2", "fingerprint-is-its-own")

log = structlog.get_logger()


class KeyIsolationSuite:
    """An `assessment.Attack`. `attackers` are canary tenants: a customer's key never attacks another tenant."""

    def __init__(  # noqa: PLR0913, PLR0917 - one for each thing that is attacked or attacked with
        self,
        database: Database,
        platform: PlatformQueries,
        tenant_keys: TransitTenantKeys,
        fingerprints: TransitFingerprints,
        root_key_cache: RootKeyCache,
        keys: VaultKeyControlSuite,
        rows: KeyLineageSuite,
        *,
        attackers: Sequence[str] = ids.PLATFORM_TENANTS,
    ) -> None:
        self._database = database
        self._platform = platform
        self._tenant_keys = tenant_keys
        self._fingerprints = fingerprints
        self._root_keys = root_key_cache
        self._keys = keys
        self._rows = rows
        self._attackers = attackers

    def __call__(self, tenant_id: str) -> Sequence[CheckResult]:
        """Attack and return every result; raises errors that are neither a rejection nor a breach."""
        with self._database.tenant_tx(tenant_id) as tx:
            read = _read(tx)
        if read is None:
            return ()
        probes = self._platform.key_probes(read.tried, _TRIED + 1)
        others = [(tenant, ciphertext) for tenant, ciphertext in probes if tenant != tenant_id][:_TRIED]
        target = KeyTarget(tenant_id, read.key.oldest, read.key.version, read.rotating)
        found = self._withdraw_outdated(read, self._keys.attack(target, [ciphertext for _, ciphertext in others]))
        fingerprint = self._compare(read, found, others[-1][0] if others else read.tried)
        attacker = next((one for one in self._attackers if one != tenant_id), None)
        wraps = self._attack_wrap(read, target, attacker)
        rows = self._rows.attack(tenant_id, ids.l2_key(attacker or RESERVED_PREFIX))
        results = (*found.results, fingerprint, *wraps, *rows)
        for result in _breached(results):
            log.error("key boundary breached", tenant_id=tenant_id, clause=result.clause, name=result.name)
        return results

    def attack_record(self, tenant_id: str) -> Sequence[CheckResult]:
        """Check the key's record and the rows of its lineage: one call to the key server."""
        with self._database.tenant_tx(tenant_id) as tx:
            read = _read(tx)
        if read is None:
            return ()
        target = KeyTarget(tenant_id, read.key.oldest, read.key.version, read.rotating)
        found = self._withdraw_outdated(read, KeyFindings(tuple(self._keys.attack_record(target)), None))
        attacker = next((one for one in self._attackers if one != tenant_id), RESERVED_PREFIX)
        checked = (*found.results, *self._rows.attack(tenant_id, ids.l2_key(attacker)))
        for result in _breached(checked):
            log.error("key boundary breached", tenant_id=tenant_id, clause=result.clause, name=result.name)
        return checked

    def _withdraw_outdated(self, read: "_Read", found: KeyFindings) -> KeyFindings:
        """Withdraw a verdict that relied on records which a rotation has replaced since."""
        if not any((result.clause, result.name) == _RECORDED_VERSIONS for result in _breached(found.results)):
            return found
        with self._database.tenant_tx(read.root.tenant.tenant_id) as tx:
            again = _read(tx)
        if again is not None and (again.key, again.rotating) == (read.key, read.rotating):
            return found
        replaced = unchecked([_RECORDED_VERSIONS], "the key was rotated during the check")
        kept = (result for result in found.results if (result.clause, result.name) != _RECORDED_VERSIONS)
        return KeyFindings((*kept, *replaced), found.probe)

    def _compare(self, read: "_Read", found: KeyFindings, tried: str) -> CheckResult:
        """Compare the fingerprint of each version with the recorded one, and store a ciphertext for other tenants."""
        clause, name = _FINGERPRINT
        if found.probe is None:
            return unchecked([_FINGERPRINT], "the key has no fingerprint")[0]
        began, key, tenant_id = time.perf_counter(), read.key, read.root.tenant.tenant_id
        versions = range(max(key.oldest, key.version - _VERSIONS + 1), key.version + 1)
        try:
            taken = {version: self._fingerprints.of(tenant_id, version) for version in versions}
        except KeyUnavailable as retired:
            raise Superseded(
                "the tenant key was rotated meanwhile", "the next attempt attacks the new version"
            ) from retired
        with self._database.tenant_tx(tenant_id) as tx:
            endings = [tx.fingerprints.record(key.name, version, taken[version]) for version in taken]
            probe = KeyProbeRow(key.name, ciphertext_version(found.probe), found.probe, tried)
            tx.fingerprints.leave(probe)
        held = all(ending in (Fingerprinted.RECORDED, Fingerprinted.KNOWN) for ending in endings)
        return CheckResult(
            clause=clause,
            name=name,
            outcome="held" if held else "breached",
            seconds=time.perf_counter() - began,
            evidence=f"the recorded fingerprints of {len(taken)} versions are {', '.join(sorted(set(endings)))}",
        )

    def _attack_wrap(self, read: "_Read", target: KeyTarget, attacker: str | None) -> Sequence[CheckResult]:
        """Attack a stored service key, or a new one where none exists, with only one of its two keys each time."""
        root, tenant_id = read.root, target.tenant_id
        if root.tenant.state not in DECRYPTS:
            return unchecked(_WRAP_CHECKS, f"the tenant is {root.tenant.state}: its keys decrypt nothing")
        try:
            root_key = root.open(self._root_keys)
            if read.service_key is None:
                context = context_of(tenant_id, _PROBE_SERVICE, 1)
                outer = root_key.wrap(context, self._tenant_keys.new_wrapped_key(context).encode("ascii"))
            else:
                context = context_of(tenant_id, read.service_key.service, read.service_key.version)
                outer = read.service_key.wrapped
            try:
                inner = root_key.unwrap(context, outer)
            except WrongContext:
                inner = None
            except RootKeyDisabled:
                # The platform's root key answers so for a retired version, and a foreign ciphertext may name one.
                if root.held is not None:
                    raise
                inner = None
        except CustomerKeyError as unavailable:
            if root.held is None:
                raise
            return unchecked(_WRAP_CHECKS, f"the root key is unavailable ({unavailable.code})")
        alone = self._keys.attack_wrap(target, context, outer, inner)
        if inner is None or attacker is None:
            why = "no other canary tenant exists" if inner else "the root key decrypts no wrap"
            return (*alone, *unchecked(_WRAP_CHECKS[-1:], why))
        return (*alone, self._keys.steal_wrap(target, context, inner, attacker))


@dataclass(frozen=True, slots=True)
class _Read:
    """The records of a tenant, read in one transaction."""

    key: KeyRow
    root: ActiveRootKey
    service_key: ServiceKeyRow | None
    tried: str
    rotating: bool


def _breached(results: Iterable[CheckResult]) -> Iterator[CheckResult]:
    return (result for result in results if result.outcome == "breached")


def _read(tx: TenantTransaction) -> _Read | None:
    tenant, key = tx.tenants.get(), tx.keys.get(ids.l2_key(tx.tenant_id))
    if tenant is None:
        raise TenantUnknown
    if key is None:
        return None
    root, probe = root_key_in_force(tx, tenant), tx.fingerprints.probe()
    versions = tx.services.keys()
    opening = [row for row in versions if row.state in OPENING]
    chosen = secrets.choice(opening) if opening else None
    service_key = None if chosen is None else tx.services.key(chosen.service, chosen.version)
    if service_key is not None and service_key.root_key_id != root.root_key_id:
        service_key = None
    return _Read(
        key,
        root,
        service_key,
        "" if probe is None else probe.tried,
        any(rotation.state != "done" for rotation in tx.rotations.all(1)),
    )
