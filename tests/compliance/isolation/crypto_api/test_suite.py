"""Against the crypto service's real listeners: every attack is refused and notices when its control is removed."""

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
from activities.isolation import crypto_api_suite as front_attacks
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
from tests.compliance.isolation.crypto_api.doors import ACTIVITIES, Doors, StepByStep, attacks_on, broken, probes_of
from tests.compliance.isolation.crypto_api.walls import WALLS
from tests.concurrency import wait_until
from tests.crypto_service.core.world import Home, World
from tests.crypto_service.https import authority
from tests.database.fixtures import Field
from tests.vault.server import Server
from vault.pki.certificates import IssuedCertificate, Issuer, LeafNames, build_leaf, hex_serial
from worker.wiring import utc_now


def test_every_attack_is_refused_documented_and_noticed_when_its_control_is_removed(attacks, customer) -> None:
    results = attacks(customer.tenant_id)
    assert {one.outcome for one in results} == {"held"}
    assert {one.clause for one in results} == set(front_attacks.CLAUSES)
    named = {(one.name.removeprefix("fronts/"), one.clause) for one in results}
    assert len(named) == len(results)
    page = (Path(__file__).parents[4] / "docs" / "fronts.md").read_text(encoding="utf-8")
    documented = {
        tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in page.splitlines() if line[:3] == "| `"
    }
    assert documented == named
    noticed = {name for _, names in WALLS.values() for name in names} | {"certificate-for-other-tenant"}
    assert noticed == {name for name, _ in named}


ORDINARY = ("all tenants share a key", "an object is read without its tenant", "what was done is not written down")
"""The others run in the full tier."""


@pytest.mark.parametrize(
    "wall", [pytest.param(wall, marks=() if wall in ORDINARY else pytest.mark.full) for wall in WALLS]
)
def test_attack_notices_that_its_control_is_removed(attacks, customer, wall, monkeypatch) -> None:
    break_it, noticed_by = WALLS[wall]
    attacks(customer.tenant_id)
    # Only the attack that waits in vain waits for less: a loaded machine must not look like another breach.
    if noticed_by <= {"operations-on-record", "refusals-on-record"}:
        monkeypatch.setattr(compliance.isolation.crypto_api.audit_check, "ON_RECORD_SECONDS", 3.0)
    if "revoked-on-new-connection" in noticed_by:
        monkeypatch.setattr(compliance.isolation.crypto_api.suite, "_REVOKED_SECONDS", 0.5)
    break_it(monkeypatch)
    attacks.forget_round()
    found = broken(attacks(customer.tenant_id))
    monkeypatch.undo()
    assert found == noticed_by
    # A breach is checked again and not remembered.
    assert broken(attacks(customer.tenant_id)) == set()


class Unconstrained:
    """An authority that the root forgot to constrain: it may sign for every tenant."""

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


def test_root_without_name_constraints_is_detected(attacks, doors, customer, monkeypatch) -> None:
    forger = Unconstrained()
    for context in doors.service.tls._contexts:
        context.load_verify_locations(cadata=forger.root.pem)
    monkeypatch.setattr(attacks, "_forger", forger)
    assert broken(attacks(customer.tenant_id)) == {"certificate-for-other-tenant"}


def test_a_round_counts_for_some_minutes_and_is_made_anew_when_it_is_asked_for(attacks, customer, monkeypatch) -> None:
    now, rounds = utc_now(), list[int]()
    monkeypatch.setattr(attacks, "_clock", lambda: now)
    make = attacks._attack_each_other
    monkeypatch.setattr(attacks, "_attack_each_other", lambda: rounds.append(1) or make())
    attacks.forget_round()
    for _ in range(3):
        attacks(customer.tenant_id)
    assert len(rounds) == 1
    now += front_attacks.PAIR_COUNTS
    attacks(customer.tenant_id)
    assert len(rounds) == 2
    attacks.forget_round()
    attacks(customer.tenant_id)
    assert len(rounds) == 3


def test_the_platforms_own_tenants_are_attacked_by_each_other_alone(attacks: CryptoApiIsolationSuite) -> None:
    for tenant_id in (CANARY_TENANT_ID, MIRROR_TENANT_ID):
        assert not [one for one in attacks(tenant_id) if "certificate-" in one.name or "of-tenant" in one.name]


def test_after_a_round_both_doors_are_tried_and_between_rounds_one_in_turn(attacks, customer, monkeypatch) -> None:
    knocked: list[ListenerProtocol] = []
    ask = CryptoApiSuite._ask
    monkeypatch.setattr(CryptoApiSuite, "_ask", lambda self, who, door: knocked.append(door) or ask(self, who, door))
    attacks._fronts.attack_tenant(attacks._probe(), *_nobody(attacks, customer), [ListenerProtocol.KMIP])
    assert set(knocked) == {ListenerProtocol.KMIP}
    knocked.clear()
    attacks(customer.tenant_id)  # whether this needs a round or not
    knocked.clear()
    both = [attacks(customer.tenant_id) and set(knocked[3 * number :]) for number in range(2)]
    assert sorted(map(tuple, both)) == [("https",), ("kmip",)]
    knocked.clear()
    attacks.forget_round()
    attacks(customer.tenant_id)
    assert Counter(knocked[-6:]) == {ListenerProtocol.HTTPS: 3, ListenerProtocol.KMIP: 3}


def _nobody(attacks: CryptoApiIsolationSuite, customer: Home) -> tuple[ForgedIdentities, Sequence[str]]:
    return attacks._strangers(customer.tenant_id, customer.authority, "orders", attacks._probe()), ()


def test_what_stands_in_the_customers_stream_is_named_by_the_evidence(
    attacks: CryptoApiIsolationSuite, customer: Home
) -> None:
    attacks.forget_round()  # so that both doors are tried
    results = attacks(customer.tenant_id)
    evidence = " ".join(one.evidence for one in results if one.name.startswith("fronts/certificate-"))
    serials = re.findall(r"serial (\w+)", evidence)
    wanted = sorted(f"certificate {serial}: not on record" for serial in serials for _ in ("https", "kmip"))

    def found() -> list[str]:
        with customer.world.worker.tenant_tx(customer.tenant_id) as tx:
            records = [json.loads(one.record) for one in tx.audit.records()]
        # The one with the canary's serial number has it each time.
        fresh = records[-len(wanted) :]
        return sorted(one["subject"] for one in fresh if one["name"] == "crypto.refused")

    end = time.monotonic() + 60
    while found() != wanted:
        assert time.monotonic() < end, (found(), wanted)
        time.sleep(0.05)


def test_a_probe_that_was_disconnected_by_hand_proves_nothing_and_is_connected_again(attacks, customer) -> None:
    attacks(customer.tenant_id)
    with customer.world.worker.tenant_tx(CANARY_TENANT_ID) as tx:
        tx.services.disconnect(PROBE)
    attacks.forget_round()
    with pytest.raises(ProbeRefused):
        attacks(customer.tenant_id)
    assert {one.outcome for one in attacks(customer.tenant_id)} == {"held"}


def test_a_service_in_trouble_is_no_result(attacks, customer, monkeypatch) -> None:
    async def down(*_: object) -> None:
        raise VaultUnavailable

    attacks(customer.tenant_id)
    monkeypatch.setattr(CryptoOperations, "_key", down)
    attacks.forget_round()
    with pytest.raises(CryptoApiFailing):
        attacks(customer.tenant_id)


def test_a_connection_that_is_cut_in_the_middle_is_no_breach(attacks, customer, monkeypatch) -> None:
    async def cut(*_: object) -> None:
        raise RuntimeError

    attacks(customer.tenant_id)
    attack = compliance.isolation.crypto_api.suite.on_another_tenant

    def with_a_cut(*owners: Owner) -> Iterator[AccessTest]:
        for number, trial in enumerate(attack(*owners)):
            if number == 1:
                monkeypatch.setattr(crypto_service.https.server._HttpsConnection, "_answer", cut)
            yield trial

    monkeypatch.setattr(compliance.isolation.crypto_api.suite, "on_another_tenant", with_a_cut)
    attacks.forget_round()
    with pytest.raises(ProbeRefused, match="may not even do what is its own"):
        attacks(customer.tenant_id)
    monkeypatch.undo()
    assert {one.outcome for one in attacks(customer.tenant_id)} == {"held"}


def test_an_audit_that_is_late_is_no_breach(attacks, customer, monkeypatch) -> None:
    monkeypatch.setattr(AuditShipper, "once", lambda _: None)
    monkeypatch.setattr(compliance.isolation.crypto_api.audit_check, "ON_RECORD_SECONDS", 0.5)
    attacks.forget_round()
    with pytest.raises(CryptoApiFailing, match="delivery of the audit is behind"):
        attacks(customer.tenant_id)
    monkeypatch.undo()
    assert {one.outcome for one in attacks(customer.tenant_id)} == {"held"}


def test_what_a_killed_round_left_behind_is_destroyed_by_a_later_one(attacks, doors, customer, monkeypatch) -> None:
    probe = attacks._probe()
    with ProbeSession(doors.address, probe) as side:
        left = side.settle()
        monkeypatch.setattr(compliance.isolation.crypto_api.session, "_LEFT_BEHIND_SECONDS", -5)
        attacks.forget_round()
        attacks(customer.tenant_id)
        assert side.kmip.locate().ids() == [side.kept_key()]
        assert not side.kmip.about(Operation.GET, left.key).worked


def test_a_probe_that_could_not_be_connected_is_connected_the_next_time(world: World) -> None:
    class Down(StepByStep):
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


def test_a_certificate_is_asked_for_again_before_it_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    probes, now = probes_of(world), utc_now()
    monkeypatch.setattr(probes, "_clock", lambda: now)
    first = probes.identity(MIRROR_TENANT_ID, PROBE)
    now = first.not_after - timedelta(minutes=5)
    assert probes.identity(MIRROR_TENANT_ID, PROBE).serial != first.serial


@pytest.mark.parametrize(("locked", "outcome"), [("customer", "held"), ("canary", "not-checked")])
def test_locked_tenant_is_attacked_and_a_locked_canary_stops_the_attacks(
    attacks, doors, customer, locked, outcome
) -> None:
    def serves_the_canary() -> bool:
        with (
            suppress(ProbeRefused, CryptoApiFailing, HandshakeRejected),
            ProbeSession(doors.address, attacks._probe()) as side,
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
        wait_until(serves_the_canary)  # until the crypto service knows of it, the next test's control fails


def test_without_a_listener_every_clause_is_not_checked(world: World, customer: Home, unused_port: int) -> None:
    nowhere = CryptoApiSuite(Endpoints("localhost", unused_port, unused_port))
    session = world.vault.session("worker")
    attacks = CryptoApiIsolationSuite(
        world.worker, nowhere, ForgedCertificateSigner(session), probes_of(world), utc_now
    )
    results = attacks(customer.tenant_id)
    assert {(one.outcome, one.evidence) for one in results} == {("not-checked", CryptoApiUnreachable.message)}
    assert [one.clause for one in results] == list(front_attacks.CLAUSES)


def test_before_the_mirror_is_there_nothing_is_checked(field: Field, vault: Server, doors: Doors) -> None:
    world = World(field, vault)
    world.tenant(CANARY_TENANT_ID)
    results = attacks_on(world, doors)(CANARY_TENANT_ID)
    assert {(one.outcome, one.evidence) for one in results} == {("not-checked", SecondCanaryMissing.message)}


def test_a_private_key_is_told_to_nobody(world: World) -> None:
    identity = probes_of(world).identity(MIRROR_TENANT_ID, PROBE)
    assert b"PRIVATE KEY" in identity.key_pem
    assert "PRIVATE" not in repr(identity)
    assert probes_of(world).identity(MIRROR_TENANT_ID, PROBE).key_pem != identity.key_pem


def test_whoever_asks_for_an_examination_is_not_told_what_was_found_before(customer: Home) -> None:
    forgotten: list[bool] = []

    def asked(_tenant_id: str) -> Sequence[CheckResult]:
        raise VaultUnavailable

    database = customer.world.worker
    activities = IsolationAssessmentActivities(
        *(
            database,
            PlatformQueries(database),
            [asked],
            CheckpointSigner(PlatformQueries(database), None),
            utc_now,
            UNCOUNTED,
        ),
        begin_anew=lambda: forgotten.append(True),
    )
    for anew in (False, True):
        step = ExamineInput(tenant_id=customer.tenant_id, operation_id=f"examination-{anew}", anew=anew)
        with pytest.raises(VaultUnavailable):
            ACTIVITIES.run(activities.examine_tenant, step)
        assert forgotten == [True] * anew
