"""Daily isolation assessments: one signed row instead of all attacks, and when an assessment makes every attack."""

from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.audit import CheckpointSigner
from activities.certificates.ca_rotation import as_authority
from activities.isolation.assessment import Attack, IsolationAssessmentActivities
from activities.isolation.key_suite import KeyIsolationSuite
from compliance.isolation.vault.forged_certificates import ForgedCertificateSigner
from config.settings import Settings
from core.errors.platform import VaultUnavailable
from core.isolation import CheckResult, flaw
from core.messages.compliance import ExamineInput
from core.names import l2_key
from database.platform.scheduled import PlatformQueries
from openkcm.verification.isolation_controls import DETAIL, tallied
from openkcm.verification.public_keys import PublicKeys
from tests.activities.counting import UNCOUNTED
from tests.activities.isolation.attacking import Widen, attacks_of
from tests.activities.isolation.test_assessment import BREACHED, HELD, WIDE, Examined, examine
from tests.activities.provisioning import Provisioning
from tests.database.fixtures import Field
from tests.vault.server import Server
from vault.auth.client import TokenSession
from vault.transit.keys import ForgedLeaf
from worker.wiring import utc_now

WEEK, DAY = timedelta(days=7), timedelta(days=1)
ROWS = [CheckResult(clause="M2", name="read", outcome="held", seconds=0.1, evidence="0 rows")]


class Scheduled(Examined):
    """An active tenant whose assessments are started by the schedule, at times of the test."""

    def __init__(self, tenant: Provisioning) -> None:
        super().__init__(tenant)
        self.now = utc_now()
        self.complete: list[CheckResult] = HELD
        self.daily: list[CheckResult] = ROWS
        self.made: list[str] = []
        self.fail_complete = False

    def activities(self) -> IsolationAssessmentActivities:
        def attack(name: str) -> Attack:
            def made(_tenant_id: str) -> list[CheckResult]:
                self.made.append(name)
                if name == "complete" and self.fail_complete:
                    raise VaultUnavailable
                return self.complete if name == "complete" else self.daily

            return made

        queries = PlatformQueries(self.database)
        return IsolationAssessmentActivities(
            self.database,
            queries,
            [attack("complete")],
            CheckpointSigner(queries, self.tenant.parts.signer),
            lambda: self.now,
            UNCOUNTED,
            daily=[attack("daily")],
            complete_interval=WEEK,
        )

    def run(self, run: str, *, daily: bool = True) -> list[str]:
        """Assess the tenant and return which attacks were made."""
        self.made.clear()
        examine(self.activities(), ExamineInput(tenant_id=self.tenant_id, operation_id=run, daily=daily))
        return list(self.made)

    def days(self, count: int, first: int = 1) -> list[list[str]]:
        """Assess the tenant once a day, two minutes later each day."""
        made = []
        for day in range(first, first + count):
            self.now += DAY + timedelta(minutes=2)
            made.append(self.run(f"examination-day-{day}"))
        return made

    def keys(self) -> PublicKeys:
        return PublicKeys.from_database(PlatformQueries(self.database).audit_keys())


@pytest.fixture
def scheduled(active: Provisioning) -> Scheduled:
    return Scheduled(active)


def counts(scheduled: Scheduled) -> tuple[int, int, int]:
    with scheduled.database.raw_tx(scheduled.tenant_id) as connection:
        [row] = connection.execute(
            "select (select count(*) from okcm.boundary_result), (select count(*) from okcm.boundary_clause),"
            " (select runs from okcm.isolation_assessment)"
        ).fetchall()
    return row


def test_every_attack_is_made_within_seven_days_and_on_request(scheduled: Scheduled) -> None:
    first = scheduled.run("examination-first")
    assert first == ["complete"]
    assert scheduled.days(14) == 2 * [*(6 * [["daily"]]), ["complete"]]
    scheduled.now += timedelta(minutes=1)
    assert scheduled.run("examination-requested", daily=False) == ["complete"]


def test_daily_assessment_adds_one_signed_row_and_one_record(scheduled: Scheduled) -> None:
    scheduled.run("examination-first")
    rows, lines, _ = counts(scheduled)
    scheduled.days(5)
    assert counts(scheduled) == (rows, lines, 5)
    assert scheduled.names().count("isolation.checked") == 6  # of the first one and five daily ones
    details = scheduled.records()[-1]["details"]
    assert (details["scope"], details["run"]) == ("daily", "examination-day-5")
    assert dict(tallied(details[DETAIL])) == {"M2": (1, 0, 0)}
    newest = scheduled.read(lambda tx: tx.boundaries.daily())
    assert newest.line.examined_at == scheduled.now
    assert flaw(scheduled.tenant_id, [newest.line], scheduled.keys().check) == ""
    altered = newest.line.model_copy(update={"held": 2})
    assert flaw(scheduled.tenant_id, [altered], scheduled.keys().check)
    assert flaw("another-tenant", [newest.line], scheduled.keys().check)
    assert scheduled.run("examination-day-5") == []  # a repeated attempt adds nothing
    assert counts(scheduled) == (rows, lines, 5)


def test_complete_assessment_follows_a_change_and_a_breach_of_another_tenant(scheduled: Scheduled, field) -> None:
    scheduled.run("examination-first")
    assert scheduled.days(1) == [["daily"]]
    with field.administrator() as administrator:
        administrator.execute("update okcm.route set published_at = %s", [scheduled.now])
    assert scheduled.days(2, 2) == [["complete"], ["daily"]]
    with field.administrator() as administrator:
        administrator.execute(
            "insert into okcm.tenant (tenant_id, organization, region, state)"
            " values ('neighbour', 'x', 'eu-west-1', 'active');"
            "insert into okcm.isolation_assessment (tenant_id, due_at, complete_at, breached, breached_at)"
            " values ('neighbour', now(), %(at)s, true, %(at)s)".replace("%(at)s", f"'{scheduled.now.isoformat()}'")
        )
    assert scheduled.days(2, 4) == [["complete"], ["daily"]]


def test_breach_in_a_daily_assessment_completes_it_and_is_not_lost(scheduled: Scheduled) -> None:
    scheduled.run("examination-first")
    scheduled.daily = BREACHED
    assert scheduled.days(1) == [["daily", "complete"]]  # HELD for the same check: the control failed only once
    row, results = scheduled.read(
        lambda tx: (tx.boundaries.examination("examination-day-1"), tx.boundaries.results_of("examination-day-1"))
    )
    assert row.breached == 1
    assert [one.outcome for one in results] == ["breached"]
    assert scheduled.names()[-1] == "isolation.breached"
    assert scheduled.flaw("examination-day-1") == ""
    scheduled.daily = ROWS
    assert scheduled.days(2, 2) == [["complete"], ["daily"]]
    scheduled.daily, scheduled.fail_complete = BREACHED, True
    assert scheduled.days(1, 4) == [["daily", "complete"]]
    assert scheduled.read(lambda tx: tx.boundaries.examination("examination-day-4")).breached == 1


def test_daily_assessment_is_due_again_after_a_day_only(scheduled: Scheduled, field) -> None:
    def due(at: datetime) -> bool:
        with field.administrator() as administrator:
            [(due_at,)] = administrator.execute("select due_at from okcm.isolation_assessment").fetchall()
        return bool(due_at <= at)

    scheduled.run("examination-first")
    scheduled.days(1)
    assert not due(scheduled.now)
    assert due(scheduled.now + DAY)


class RealControls(Scheduled):
    """A tenant with the attacks of the product on database and keys; those on the crypto service need its process."""

    def __init__(self, tenant: Provisioning, keys: KeyIsolationSuite) -> None:
        super().__init__(tenant)
        [gate] = [one.__self__ for one in tenant.parts.lifecycle if one.__name__ == "check_boundaries"]
        self.suites = {"complete": (gate.attack, keys), "daily": (gate.attack_rows, keys.attack_record)}
        self._tokens = gate._vault_probe._tokens, keys._keys._tokens

    def forget_tokens(self) -> None:
        for tokens in self._tokens:
            tokens._kept.clear()

    def activities(self) -> IsolationAssessmentActivities:
        def named(name: str) -> list[Attack]:
            return [lambda tenant_id, one=one: self.made.append(name) or one(tenant_id) for one in self.suites[name]]

        queries = PlatformQueries(self.database)
        signer = CheckpointSigner(queries, self.tenant.parts.signer)
        return IsolationAssessmentActivities(
            self.database,
            queries,
            named("complete"),
            signer,
            lambda: self.now,
            UNCOUNTED,
            daily=named("daily"),
            complete_interval=WEEK,
        )

    def breached(self) -> bool:
        return self.read(lambda tx: tx.boundaries.state()).breached


@pytest.fixture
def controls(ready: Provisioning, settings: Settings) -> RealControls:
    return RealControls(ready, attacks_of(ready.parts, settings))


def test_daily_attacks_hold_and_are_part_of_the_complete_ones(controls: RealControls) -> None:
    complete = [one for suite in controls.suites["complete"] for one in suite(controls.tenant_id)]
    daily = [one for suite in controls.suites["daily"] for one in suite(controls.tenant_id)]
    assert {one.outcome for one in daily} == {"held"}
    assert {(one.clause, one.name) for one in daily} < {(one.clause, one.name) for one in complete}
    assert {"U1", "U3", "U4", "E2", "A2", "M1", "M2"} == {one.clause for one in daily}


def test_control_of_the_database_or_key_that_fails_is_found_by_the_next_daily_assessment(
    controls: RealControls, field: Field, vault_admin: TokenSession
) -> None:
    controls.run("examination-first")
    controls.days(1)
    assert not controls.breached()
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.key disable row level security")
    controls.days(1, 2)
    assert controls.breached()
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.key enable row level security")
    controls.days(2, 3)
    assert not controls.breached()
    vault_admin.write(f"transit/keys/{l2_key(controls.tenant_id)}/config", {"deletion_allowed": True})
    controls.days(1, 5)
    assert controls.breached()


def test_policy_of_the_key_server_that_fails_is_found_within_seven_days(controls: RealControls, widen: Widen) -> None:
    controls.run("examination-first")
    with widen("tenant", WIDE):
        days = 0
        while not controls.breached():
            days += 1
            controls.days(1, days)
    assert days == 7


def test_assessments_of_a_week_add_less_than_50_kb_a_day_to_the_log_of_the_key_server(
    controls: RealControls, field: Field, key_server: Server
) -> None:
    log = key_server.folder / "logs" / "audit.log"
    with field.administrator() as administrator:
        # As many other tenants as a trial takes; their ciphertexts have the length of real ones.
        administrator.execute(
            "set session_replication_role = replica; insert into okcm.key_probe (tenant_id, l2_key, version,"
            " ciphertext, tried) select 'other-' || n, 'L2', 1, 'vault:v1:' || encode(sha256(n::text::bytea) ||"
            " sha256('a')::bytea, 'base64'), '' from generate_series(1, 60) n"
        )
    forger = ForgedCertificateSigner(controls.tenant.parts.vault, utc_now)
    authority = as_authority(controls.read(lambda tx: tx.certificates.authority()))
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    leaves = [ForgedLeaf(controls.tenant_id, controls.tenant_id, "orders")] * 3

    def forge(_tenant_id: str) -> list[CheckResult]:
        """Make the calls of the attacks through the crypto service, which does not run here."""
        forger.forge(controls.tenant_id, authority, key, leaves)
        return []

    controls.suites = {name: (*suites, forge) for name, suites in controls.suites.items()}
    controls.run("examination-first")
    sizes = []
    for day in range(1, 8):
        controls.forget_tokens()  # a token does not live for a day
        before = log.stat().st_size
        controls.days(1, day)
        sizes.append(log.stat().st_size - before)
    assert controls.made[-1] == "complete"
    assert sum(sizes) / 7 < 50_000, sizes
    assert max(sizes[:6]) < 25_000, sizes
