"""Attacks through the crypto service's own doors, as a part of a tenant's full examination.

Two kinds. The platform's own tenants, the canary and the mirror, have everything there is to steal and attack each
other: that is about walls that stand or fall for all tenants alike, so one round of it counts for some minutes. And on
the tenant itself: certificates that its own authority signed and that must open nothing, and the canary asking for
what is the tenant's. Nothing of a customer's is ever asked for in a way that could change it, should a wall be down.
"""

import itertools
import json
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from activities.audit_trail import Clock
from activities.certificates.ca_rotation import as_authority
from activities.isolation.probe_services import PROBE, SIBLING, ProbeServices, presenting
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
"""For how long a round between the platform's own tenants counts; a sweep of 1,000 tenants makes two or three."""
CLAUSES = ("U5", "E3", "C1", "C2", "C3", "M1", "A1", "A2", "A3", "REQ-011", "REV")
"""What is attacked here."""
_OF_OPERATIONS = frozenset(
    (AuditName.CRYPTO_KEY_RELEASED, AuditName.CRYPTO_KEY_CHANGED, AuditName.CRYPTO_USED, AuditName.CRYPTO_REFUSED)
)
_ASKED_OBJECTS = 2
_READ_AT_ONCE = 1000
_LONG_ENOUGH = timedelta(minutes=10)
"""What an authority signs ends with it, and what has ended would be refused for that."""


class CryptoApiIsolationSuite:
    """`examination.Attack`. Used from several threads: of those that need a new round, one makes it.

    A tenant for which a round is made, as for whoever asks for one tenant, is attacked at both doors. Of a sweep's
    tenants each is at one of them in turn: handshakes are what a sweep costs customers' services.
    """

    def __init__(
        self,
        database: Database,
        fronts: CryptoApiSuite,
        forger: ForgedCertificateSigner,
        probes: ProbeServices,
        clock: Clock,
    ) -> None:
        self._database = database
        self._fronts = fronts
        self._forger = forger
        self._probes = probes
        self._clock = clock
        self._round: tuple[datetime, Sequence[CheckResult]] | None = None
        self._doors = itertools.cycle(ListenerProtocol)
        self._turn = threading.Lock()

    def __call__(self, tenant_id: str) -> Sequence[CheckResult]:
        """Attack; of the platform's own tenants what was found within `PAIR_COUNTS` counts.

        Raises: CryptoApiFailing, ProbeRefused, and what connecting a service does; each may be tried again.
        """
        try:
            self._probes.check_platform_tenants()
            between, doors = self._between_platform_tenants()
            return (*between, *self._on(tenant_id, doors))
        except (CryptoApiUnreachable, CanaryMissing, SecondCanaryMissing) as nothing_there:
            return [_not_checked(clause, nothing_there.message) for clause in CLAUSES]
        except ProbeRefused:
            self._probes.forget()
            raise

    def forget_round(self) -> None:
        """Have the next call attack all anew, because somebody asks what is so now."""
        with self._turn:
            self._round = None

    def _between_platform_tenants(self) -> tuple[Sequence[CheckResult], Collection[ListenerProtocol]]:
        """Return how the round ended, and the doors to knock at: both after a new round, else one in turn."""
        with self._turn:
            if self._round is not None and self._clock() < self._round[0] + PAIR_COUNTS:
                return self._round[1], (next(self._doors),)
            began, results = self._clock(), self._attack_each_other()
            # What was broken is looked at again each time: it may have been mended, and its verdict is a grave one.
            self._round = None if breaches(results) else (began, results)
            return results, tuple(ListenerProtocol)

    def _attack_each_other(self) -> Sequence[CheckResult]:
        one, other = self._probe(), self._probes.identity(MIRROR_TENANT_ID, PROBE)
        sibling = self._probes.identity(CANARY_TENANT_ID, SIBLING)
        revoked, revoke = self._probes.revocation()
        return (
            *self._fronts.attack_each_other(Pair(one, sibling, other)),
            *self._fronts.see_on_record(one, self._recorded_since_now(one.tenant_id)),
            *self._fronts.revoke(revoked, revoke),
        )

    def _on(self, tenant_id: str, doors: Collection[ListenerProtocol]) -> Sequence[CheckResult]:
        if tenant_id in PLATFORM_TENANTS:
            return ()
        probe = self._probe()
        with self._database.tenant_tx(tenant_id) as tx:
            authority, services = tx.certificates.authority(), tx.services.all()
            objects = tx.objects.some_ids(_ASKED_OBJECTS)
        if authority is None or authority.not_after < self._clock() + _LONG_ENOUGH:
            return [_not_checked("A1", "the tenant has no authority that could sign a certificate")]
        name = services[0].service if services else PROBE
        strangers = self._strangers(tenant_id, as_authority(authority), name, probe)
        return self._fronts.attack_tenant(probe, strangers, objects, doors)

    def _strangers(self, tenant_id: str, authority: Authority, service: str, probe: Identity) -> ForgedIdentities:
        """Have the tenant's authority sign, as whoever holds it could: for the canary, its serial number and all."""
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
        """Return what says whether an operation by its correlation id stands in the stream's part that begins now.

        That a key was opened for it stands there under the same id, and says nothing of the operation.
        """
        with self._database.tenant_tx(tenant_id) as tx:
            head = tx.audit.head()
        seen, last = set[str](), 0 if head is None else head.seq

        def recorded(correlation: str) -> bool:
            nonlocal last
            if correlation not in seen:
                with self._database.tenant_tx(tenant_id) as tx:
                    for stored in tx.audit.records(last, _READ_AT_ONCE):
                        last, record = stored.seq, json.loads(stored.record)
                        if record["name"] in _OF_OPERATIONS:
                            seen.add(record.get("correlation_id", ""))
            return correlation in seen

        return recorded


def _not_checked(clause: str, why: str) -> CheckResult:
    name = f"fronts/{clause.lower()}"
    return CheckResult(clause=clause, name=name, outcome="not-checked", seconds=0.0, evidence=why)
