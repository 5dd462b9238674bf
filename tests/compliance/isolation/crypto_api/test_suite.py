"""Isolation checks against the real APIs: every attack is rejected, and detects when its control is removed."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import compliance.isolation.crypto_api.audit_check
import compliance.isolation.crypto_api.session
import compliance.isolation.crypto_api.suite
import crypto_service.https.server
from activities.audit import CheckpointSigner
from activities.isolation import crypto_api_suite
from activities.isolation.assessment import IsolationAssessmentActivities
from activities.isolation.crypto_api_suite import CryptoApiIsolationSuite
from activities.isolation.probe_services import PROBE, ProbeServices
from compliance.isolation.crypto_api.cross_tenant import Owner
from compliance.isolation.crypto_api.kmip_client import Operation
from compliance.isolation.crypto_api.model import (
    AccessTest,
    CryptoApiFailing,
    CryptoApiUnreachable,
    ForgedIdentities,
    ListenerProtocol,
    ProbeRefused,
)
from compliance.isolation.crypto_api.session import Endpoints, ProbeSession
from compliance.isolation.crypto_api.suite import CryptoApiSuite
from compliance.isolation.crypto_api.tls_client import HandshakeRejected
from compliance.isolation.vault.forged_certificates import ForgedCertificateSigner
from core.errors.compliance import SecondCanaryMissing
from core.errors.platform import TemporalUnavailable, VaultUnavailable
from core.isolation import CheckResult
from core.messages.compliance import ExamineInput
from core.names import CANARY_TENANT_ID, MIRROR_TENANT_ID
from core.tenants.lifecycle import State, Transition
from crypto_service.audit.shipper import AuditShipper
from crypto_service.keys.operations import CryptoOperations
from database.platform.scheduled import PlatformQueries
from openkcm.contract.names import service_spiffe, tenant_dns
from tests.activities.counting import UNCOUNTED
from tests.compliance.isolation.crypto_api.controls import CONTROLS
from tests.compliance.isolation.crypto_api.endpoints import (
    ACTIVITIES,
    ActivityServiceConnector,
    RunningCryptoService,
    attacks_on,
    breached_checks,
    probes_of,
)
from tests.concurrency import wait_until
from tests.crypto_service import authority
from tests.crypto_service.core.world import Home, World
from tests.database.fixtures import Field
from tests.vault.server import Server
from vault.pki.certificates import IssuedCertificate, Issuer, LeafNames, build_leaf, hex_serial
from worker.wiring import utc_now


def test_every_attack_is_rejected_documented_and_detects_its_removed_control(attacks, customer) -> None:
    results = attacks(customer.tenant_id)
    assert {one.outcome for one in results} == {"held"}
    assert {one.clause for one in results} == set(crypto_api_suite.CLAUSES)
    named = {(one.name.removeprefix("crypto-api/"), one.clause) for one in results}
    assert len(named) == len(results)
    page = (Path(__file__).parents[4] / "docs" / "isolation-crypto-api.md").read_text(encoding="utf-8")
    documented = {
        tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in page.splitlines() if line[:3] == "| `"
    }
    assert documented == named
    detected = {name for _, names in CONTROLS.values() for name in names} | {"certificate-for-other-tenant"}
    assert detected == {name for name, _ in named}


ORDINARY = ("all tenants share a key", "an object is read without its tenant", "successful operations are not recorded")
"""The other controls are tested in the full tier."""


@pytest.mark.parametrize(
    "control", [pytest.param(control, marks=() if control in ORDINARY else pytest.mark.full) for control in CONTROLS]
)
def test_attack_detects_that_its_control_is_removed(attacks, customer, control, monkeypatch) -> None:
    remove_control, detected_by = CONTROLS[control]
    attacks(customer.tenant_id)
    # Only the check that times out gets a shorter timeout: a loaded machine must not cause another breach.
    if detected_by <= {"operations-recorded", "refusals-recorded"}:
        monkeypatch.setattr(compliance.isolation.crypto_api.audit_check, "RECORDED_SECONDS", 3.0)
    if "revoked-on-new-connection" in detected_by:
        monkeypatch.setattr(compliance.isolation.crypto_api.suite, "_REVOKED_SECONDS", 0.5)
    remove_control(monkeypatch)
    attacks.forget_round()
    found = breached_checks(attacks(customer.tenant_id))
    monkeypatch.undo()
    assert found == detected_by
    # A breach is checked again and not remembered.
    assert breached_checks(attacks(customer.tenant_id)) == set()


class Unconstrained:
    """A CA without name constraints: it can sign for every tenant."""

    def __init__(self) -> None:
        self.root = authority._authority("root without constraints", None, None)

    def forge(self, _tenant_id, _authority, key, wanted) -> list[IssuedCertificate]:
        issuer = Issuer(self.root.certificate, self.root.key)
        leaves = [
            build_leaf(
                issuer,
                key,
                LeafNames(one.service, tenant_dns(one.dns_of), service_spiffe(one.tenant_id, one.service)),
                datetime.now(UTC),
                timedelta(minutes=5),
                None if one.serial is None else int(one.serial, 16),
            )
            for one in wanted
        ]
        return [IssuedCertificate(hex_serial(one), authority.pem(one), one.not_valid_after_utc) for one in leaves]


def test_root_without_name_constraints_is_detected(attacks, running_service, customer, monkeypatch) -> None:
    forger = Unconstrained()
    for context in running_service.service.tls._contexts:
        context.load_verify_locations(cadata=forger.root.pem)
    monkeypatch.setattr(attacks, "_forger", forger)
    assert breached_checks(attacks(customer.tenant_id)) == {"certificate-for-other-tenant"}


def test_round_is_reused_for_minutes_and_repeated_on_request(attacks, customer, monkeypatch) -> None:
    now, rounds = utc_now(), list[int]()
    monkeypatch.setattr(attacks, "_clock", lambda: now)
    make = attacks._attack_each_other
    monkeypatch.setattr(attacks, "_attack_each_other", lambda: rounds.append(1) or make())
    attacks.forget_round()
    for _ in range(3):
        attacks(customer.tenant_id)
    assert len(rounds) == 1
    now += crypto_api_suite.PAIR_COUNTS
    attacks(customer.tenant_id)
    assert len(rounds) == 2
    attacks.forget_round()
    attacks(customer.tenant_id)
    assert len(rounds) == 3


def test_platform_tenants_are_attacked_only_by_each_other(attacks: CryptoApiIsolationSuite) -> None:
    for tenant_id in (CANARY_TENANT_ID, MIRROR_TENANT_ID):
        assert not [one for one in attacks(tenant_id) if "certificate-" in one.name or "of-tenant" in one.name]


def test_both_apis_are_attacked_after_a_round_and_alternately_between_rounds(attacks, customer, monkeypatch) -> None:
    attacked: list[ListenerProtocol] = []
    ask = CryptoApiSuite._ask
    monkeypatch.setattr(
        CryptoApiSuite, "_ask", lambda self, who, protocol: attacked.append(protocol) or ask(self, who, protocol)
    )
    attacks._suite.attack_tenant(attacks._probe(), *_forged_without_objects(attacks, customer), [ListenerProtocol.KMIP])
    assert set(attacked) == {ListenerProtocol.KMIP}
    attacked.clear()
    attacks(customer.tenant_id)  # whether this needs a round or not
    attacked.clear()
    both = [attacks(customer.tenant_id) and set(attacked[3 * number :]) for number in range(2)]
    assert sorted(map(tuple, both)) == [("https",), ("kmip",)]
    attacked.clear()
    attacks.forget_round()
    attacks(customer.tenant_id)
    assert Counter(attacked[-6:]) == {ListenerProtocol.HTTPS: 3, ListenerProtocol.KMIP: 3}


def _forged_without_objects(attacks: CryptoApiIsolationSuite, customer: Home) -> tuple[ForgedIdentities, Sequence[str]]:
    return attacks._other_tenants(customer.tenant_id, customer.authority, "orders", attacks._probe()), ()


def test_evidence_names_the_serials_in_the_customers_audit_stream(
    attacks: CryptoApiIsolationSuite, customer: Home
) -> None:
    attacks.forget_round()  # so that both APIs are attacked
    results = attacks(customer.tenant_id)
    evidence = " ".join(one.evidence for one in results if one.name.startswith("crypto-api/certificate-"))
    serials = re.findall(r"serial (\w+)", evidence)
    wanted = sorted(f"certificate {serial}: not recorded" for serial in serials for _ in ("https", "kmip"))

    def found() -> list[str]:
        with customer.world.worker.tenant_tx(customer.tenant_id) as tx:
            records = [json.loads(one.record) for one in tx.audit.records()]
        # The certificate with the canary's serial number has the same subject each time.
        fresh = records[-len(wanted) :]
        return sorted(one["subject"] for one in fresh if one["name"] == "crypto.refused")

    end = time.monotonic() + 60
    while found() != wanted:
        assert time.monotonic() < end, (found(), wanted)
        time.sleep(0.05)


def test_disconnected_probe_proves_nothing_and_is_reconnected(attacks, customer) -> None:
    attacks(customer.tenant_id)
    with customer.world.worker.tenant_tx(CANARY_TENANT_ID) as tx:
        tx.services.disconnect(PROBE)
    attacks.forget_round()
    with pytest.raises(ProbeRefused):
        attacks(customer.tenant_id)
    assert {one.outcome for one in attacks(customer.tenant_id)} == {"held"}


def test_failing_service_gives_no_result(attacks, customer, monkeypatch) -> None:
    async def down(*_: object) -> None:
        raise VaultUnavailable

    attacks(customer.tenant_id)
    monkeypatch.setattr(CryptoOperations, "_key", down)
    attacks.forget_round()
    with pytest.raises(CryptoApiFailing):
        attacks(customer.tenant_id)


def test_interrupted_connection_is_no_breach(attacks, customer, monkeypatch) -> None:
    async def cut(*_: object) -> None:
        raise RuntimeError

    attacks(customer.tenant_id)
    attack = compliance.isolation.crypto_api.suite.on_another_tenant

    def interrupting(*owners: Owner) -> Iterator[AccessTest]:
        for number, trial in enumerate(attack(*owners)):
            if number == 1:
                monkeypatch.setattr(crypto_service.https.server._HttpsConnection, "_answer", cut)
            yield trial

    monkeypatch.setattr(compliance.isolation.crypto_api.suite, "on_another_tenant", interrupting)
    attacks.forget_round()
    with pytest.raises(ProbeRefused, match="cannot access its own data"):
        attacks(customer.tenant_id)
    monkeypatch.undo()
    assert {one.outcome for one in attacks(customer.tenant_id)} == {"held"}


def test_late_audit_records_are_no_breach(attacks, customer, monkeypatch) -> None:
    monkeypatch.setattr(AuditShipper, "once", lambda _: None)
    monkeypatch.setattr(compliance.isolation.crypto_api.audit_check, "RECORDED_SECONDS", 0.5)
    attacks.forget_round()
    with pytest.raises(CryptoApiFailing, match="audit shipper is late"):
        attacks(customer.tenant_id)
    monkeypatch.undo()
    assert {one.outcome for one in attacks(customer.tenant_id)} == {"held"}


def test_later_round_destroys_keys_of_a_killed_round(attacks, running_service, customer, monkeypatch) -> None:
    probe = attacks._probe()
    with ProbeSession(running_service.address, probe) as side:
        left = side.create_fixtures()
        monkeypatch.setattr(compliance.isolation.crypto_api.session, "_LEFT_BEHIND_SECONDS", -5)
        attacks.forget_round()
        attacks(customer.tenant_id)
        assert side.kmip.locate().ids() == [side.kept_key()]
        assert not side.kmip.about(Operation.GET, left.key).worked


def test_failed_connection_of_a_probe_is_retried(world: World) -> None:
    class Down(ActivityServiceConnector):
        failures = 1

        def connect(self, *of: str) -> None:
            if self.failures:
                self.failures -= 1
                raise TemporalUnavailable
            super().connect(*of)

    probes = ProbeServices(world.worker, Down(world), utc_now)
    with pytest.raises(TemporalUnavailable):
        probes.identity(MIRROR_TENANT_ID, PROBE)
    assert probes.identity(MIRROR_TENANT_ID, PROBE) is probes.identity(MIRROR_TENANT_ID, PROBE)


def test_probe_certificate_is_renewed_before_its_expiry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, now = probes_of(world), utc_now()
    monkeypatch.setattr(probes, "_clock", lambda: now)
    first = probes.identity(MIRROR_TENANT_ID, PROBE)
    now = first.not_after - timedelta(minutes=5)
    assert probes.identity(MIRROR_TENANT_ID, PROBE).serial != first.serial


@pytest.mark.parametrize(("locked", "outcome"), [("customer", "held"), ("canary", "not-checked")])
def test_locked_tenant_is_attacked_and_a_locked_canary_stops_the_attacks(
    attacks, running_service, customer, locked, outcome
) -> None:
    def serves_the_canary() -> bool:
        with (
            suppress(ProbeRefused, CryptoApiFailing, HandshakeRejected),
            ProbeSession(running_service.address, attacks._probe()) as side,
        ):
            return side.works()
        return False

    def move(move: Transition, back_to: State | None = None) -> None:
        with customer.world.worker.tenant_tx(customer.tenant_id if locked == "customer" else CANARY_TENANT_ID) as tx:
            tx.tenants.move(move, back_to)

    move(Transition.LOCK)
    try:
        assert {one.outcome for one in attacks(customer.tenant_id)} == {outcome}
    finally:
        move(Transition.UNLOCK, State.ACTIVE)
        wait_until(serves_the_canary)  # otherwise the positive control of the next test fails


def test_without_a_listener_every_clause_is_not_checked(world: World, customer: Home, unused_port: int) -> None:
    unreachable = CryptoApiSuite(Endpoints("localhost", unused_port, unused_port))
    session = world.vault.session("worker")
    attacks = CryptoApiIsolationSuite(
        world.worker, unreachable, ForgedCertificateSigner(session), probes_of(world), utc_now
    )
    results = attacks(customer.tenant_id)
    assert {(one.outcome, one.evidence) for one in results} == {("not-checked", CryptoApiUnreachable.message)}
    assert [one.clause for one in results] == list(crypto_api_suite.CLAUSES)


def test_nothing_is_checked_without_the_second_canary_tenant(
    field: Field, vault: Server, running_service: RunningCryptoService
) -> None:
    world = World(field, vault)
    world.tenant(CANARY_TENANT_ID)
    results = attacks_on(world, running_service)(CANARY_TENANT_ID)
    assert {(one.outcome, one.evidence) for one in results} == {("not-checked", SecondCanaryMissing.message)}


def test_private_key_of_an_identity_is_not_in_its_repr(world: World) -> None:
    identity = probes_of(world).identity(MIRROR_TENANT_ID, PROBE)
    assert b"PRIVATE KEY" in identity.key_pem
    assert "PRIVATE" not in repr(identity)
    assert probes_of(world).identity(MIRROR_TENANT_ID, PROBE).key_pem != identity.key_pem


def test_requested_assessment_does_not_reuse_former_results(customer: Home) -> None:
    restarted: list[bool] = []

    def failing_suite(_tenant_id: str) -> Sequence[CheckResult]:
        raise VaultUnavailable

    database = customer.world.worker
    activities = IsolationAssessmentActivities(
        *(
            database,
            PlatformQueries(database),
            [failing_suite],
            CheckpointSigner(PlatformQueries(database), None),
            utc_now,
            UNCOUNTED,
        ),
        begin_repeat=lambda: restarted.append(True),
    )
    for repeat in (False, True):
        step = ExamineInput(tenant_id=customer.tenant_id, operation_id=f"examination-{repeat}", repeat=repeat)
        with pytest.raises(VaultUnavailable):
            ACTIVITIES.run(activities.examine_tenant, step)
        assert restarted == [True] * repeat
