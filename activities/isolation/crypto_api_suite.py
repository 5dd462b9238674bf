"""Attacks through the crypto service's public listeners, a part of a tenant's isolation assessment.

There are two kinds. The platform's two canary tenants hold every kind of object and attack each other. That tests
controls that all tenants share, so one round counts for some minutes. The second kind attacks the tenant itself: its CA
signs certificates that must grant no access, and the canary requests the tenant's objects. No request could change a
customer's data, even if an isolation control failed.
"""

import itertools
import json
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from activities.certificates.ca_rotation import as_authority
from activities.isolation.probe_services import PROBE, SIBLING, ProbeServices, presenting
from activities.runtime.audit_trail import Clock
from compliance.isolation.crypto_api.model import (
    CryptoApiUnreachable,
    ForgedIdentities,
    Identity,
    ListenerProtocol,
    Pair,
    ProbeRefused,
)
from compliance.isolation.crypto_api.suite import CryptoApiSuite
from compliance.isolation.vault.forged_certificates import ForgedCertificateSigner
from core.errors.compliance import CanaryMissing, SecondCanaryMissing
from core.isolation import CheckResult, breaches
from core.names import CANARY_TENANT_ID, MIRROR_TENANT_ID, PLATFORM_TENANTS
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from vault.pki.certificates import Authority
from vault.transit.keys import ForgedLeaf

PAIR_COUNTS = timedelta(minutes=5)
"""How long a round between the canary tenants counts; a sweep of 1,000 tenants needs two or three."""
CLAUSES = ("U5", "E3", "C1", "C2", "C3", "M1", "A1", "A2", "A3", "REQ-011", "REV")
"""The clauses that these attacks test."""
_OF_OPERATIONS = frozenset(
    (AuditName.CRYPTO_KEY_RELEASED, AuditName.CRYPTO_KEY_CHANGED, AuditName.CRYPTO_USED, AuditName.CRYPTO_REFUSED)
)
_REQUESTED_OBJECTS = 2
_READ_BATCH = 1000
_MIN_CA_LIFETIME = timedelta(minutes=10)
"""A forged certificate ends with its CA; an expired one would be rejected for its age and prove nothing."""


class CryptoApiIsolationSuite:
    """An `assessment.Attack`, safe to share between threads; of several that need a new round, one makes it.

    A tenant whose call makes a round, as in an assessment on request, is attacked at both listeners. A sweep attacks
    each tenant at one of them in turn, because handshakes take capacity from customers' services.
    """

    def __init__(
        self,
        database: Database,
        suite: CryptoApiSuite,
        forger: ForgedCertificateSigner,
        probes: ProbeServices,
        clock: Clock,
    ) -> None:
        self._database = database
        self._suite = suite
        self._forger = forger
        self._probes = probes
        self._clock = clock
        self._round: tuple[datetime, Sequence[CheckResult]] | None = None
        self._protocols = itertools.cycle(ListenerProtocol)
        self._lock = threading.Lock()

    def __call__(self, tenant_id: str) -> Sequence[CheckResult]:
        """Attack the tenant; results between the canary tenants count for `PAIR_COUNTS`.

        Raises: CryptoApiFailing, ProbeRefused, and the errors of connecting a service; each is retryable.
        """
        try:
            self._probes.check_platform_tenants()
            between, protocols = self._between_platform_tenants()
            return (*between, *self._attack_tenant(tenant_id, protocols))
        except (CryptoApiUnreachable, CanaryMissing, SecondCanaryMissing) as missing:
            return [_not_checked(clause, missing.message) for clause in CLAUSES]
        except ProbeRefused:
            self._probes.forget()
            raise

    def forget_round(self) -> None:
        """Discard the last round, so that the next call repeats every attack."""
        with self._lock:
            self._round = None

    def _between_platform_tenants(self) -> tuple[Sequence[CheckResult], Collection[ListenerProtocol]]:
        """Return the results of the round and the protocols to attack: both after a new round, else one in turn."""
        with self._lock:
            if self._round is not None and self._clock() < self._round[0] + PAIR_COUNTS:
                return self._round[1], (next(self._protocols),)
            began, results = self._clock(), self._attack_each_other()
            # A breach is never reused: the control may have been fixed, and the verdict locks the tenant.
            self._round = None if breaches(results) else (began, results)
            return results, tuple(ListenerProtocol)

    def _attack_each_other(self) -> Sequence[CheckResult]:
        one, other = self._probe(), self._probes.identity(MIRROR_TENANT_ID, PROBE)
        sibling = self._probes.identity(CANARY_TENANT_ID, SIBLING)
        revoked, revoke = self._probes.revocation()
        return (
            *self._suite.attack_each_other(Pair(one, sibling, other)),
            *self._suite.verify_recorded(one, self._recorded_since_now(one.tenant_id)),
            *self._suite.revoke(revoked, revoke),
        )

    def _attack_tenant(self, tenant_id: str, protocols: Collection[ListenerProtocol]) -> Sequence[CheckResult]:
        if tenant_id in PLATFORM_TENANTS:
            return ()
        probe = self._probe()
        with self._database.tenant_tx(tenant_id) as tx:
            authority, services = tx.certificates.authority(), tx.services.all()
            objects = tx.objects.some_ids(_REQUESTED_OBJECTS)
        if authority is None or authority.not_after < self._clock() + _MIN_CA_LIFETIME:
            return [_not_checked("A1", "the tenant has no CA that could sign a certificate")]
        name = services[0].service if services else PROBE
        identities = self._other_tenants(tenant_id, as_authority(authority), name, probe)
        return self._suite.attack_tenant(probe, identities, objects, protocols)

    def _other_tenants(self, tenant_id: str, authority: Authority, service: str, probe: Identity) -> ForgedIdentities:
        """Return identities signed by the tenant's CA, as a holder of its key could forge them for the canary."""
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = (
            ForgedLeaf(probe.tenant_id, probe.tenant_id, probe.service, probe.serial),
            ForgedLeaf(probe.tenant_id, tenant_id, probe.service, probe.serial),
            ForgedLeaf(tenant_id, tenant_id, service),
        )
        leaves = self._forger.forge(tenant_id, authority, key.public_key(), wanted)
        return ForgedIdentities(*(presenting(tenant_id, service, leaf, authority.chain_pem, key) for leaf in leaves))

    def _probe(self) -> Identity:
        return self._probes.identity(CANARY_TENANT_ID, PROBE)

    def _recorded_since_now(self, tenant_id: str) -> Callable[[str], bool]:
        """Return a function that checks whether the stream records an operation, by correlation id, from now.

        A record that a key was unwrapped has the same id and does not count: it does not prove the operation.
        """
        with self._database.tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        seen, last = set[str](), 0 if head is None else head.seq

        def recorded(correlation: str) -> bool:
            nonlocal last
            if correlation not in seen:
                with self._database.tenant_tx(tenant_id) as tx:
                    for stored in tx.audit.records(last, _READ_BATCH):
                        last, record = stored.seq, json.loads(stored.record)
                        if record["name"] in _OF_OPERATIONS:
                            seen.add(record.get("correlation_id", ""))
            return correlation in seen

        return recorded


def _not_checked(clause: str, why: str) -> CheckResult:
    name = f"crypto-api/{clause.lower()}"
    return CheckResult(clause=clause, name=name, outcome="not-checked", seconds=0.0, evidence=why)
