"""What is said of versions of keys and of rotations, without a database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.keys.rotation import MEANING, KeyState, RotationPhase, RotationScope
from core.services import ServiceState
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from dashboard.components.tenant_status import Severity
from dashboard.rotation import view as rotation
from database.keys import KeyRow, KeyVersionRow, VersionUseRow
from database.rotation import RotationRequest, RotationRow
from tests.dashboard.held import DAY, NOW, TENANT, a_service

POLICY = TenantPolicy()
SERVICE = a_service("orders")
L2 = KeyRow("L2-acme-primary", "L2", 1, NOW - 10 * DAY, 1, NOW - 10 * DAY)


def a_version(version: int, state: KeyState, **changed: object) -> KeyVersionRow:
    row = KeyVersionRow("orders", version, L2.name, "platform", "root-eu-west-1", NOW - 9 * DAY, state)
    return replace(row, **changed)


def a_rotation(state: str = "running", stage: RotationPhase = RotationPhase.REWRAP, **changed: object) -> RotationRow:
    wanted = RotationRequest(tenant_key=True, services=RotationScope.ALL)
    ended = None if state == "running" else NOW - DAY
    return replace(RotationRow(1, wanted, 1, state, stage, 300, 120, None, NOW - 2 * DAY, ended), **changed)


def test_the_tenant_key_says_its_version_since_when_and_when_it_is_due() -> None:
    assert rotation.tenant_key(L2, POLICY, NOW) == (
        "Version 1 since 15 Nov 2026, 12:00 UTC (10 days ago).",
        "Due 15 Nov 2027, 12:00 UTC (in 355 days), by your policy of 365 days.",
    )
    older = rotation.tenant_key(replace(L2, version=3, oldest=3), POLICY, NOW)[1]
    assert older == "Versions before 3 open nothing any more."
    left = rotation.tenant_key(replace(L2, version=3, oldest=2), POLICY, NOW)[1]
    assert left == "Versions from 2 on still open what they wrapped."


def test_a_key_that_is_too_old_is_rotated_by_itself() -> None:
    late = rotation.tenant_key(replace(L2, rotated_at=NOW - 366 * DAY), POLICY, NOW)[-1]
    assert late == "Your policy (365 days) wants it rotated now; that happens by itself within the hour."


def test_each_version_says_its_state_its_last_use_and_what_lies_under_it() -> None:
    keys = [
        a_version(1, KeyState.DESTROYED, destroyed_at=NOW - DAY),
        a_version(2, KeyState.COMPROMISED, deactivated_at=NOW - 2 * DAY, last_opened_at=NOW - DAY),
        a_version(3, KeyState.ACTIVE, activated_at=NOW - 2 * DAY),
    ]
    active, compromised, gone = rotation.versions(SERVICE, keys, [VersionUseRow("orders", 2, 7)], POLICY, NOW)
    assert active.startswith("**Version 3**: active, it encrypts, since 23 Nov 2026, 12:00 UTC (2 days ago).")
    assert "Last opened never so far." in active
    assert "Due 21 Feb 2027, 12:00 UTC (in 88 days), by your policy of 90 days." in active
    assert "it opens nothing a service brings, since 23 Nov 2026" in compromised
    assert "Last opened 24 Nov 2026, 12:00 UTC (1 day ago). 7 KMIP objects lie under it." in compromised
    assert "Due" not in compromised
    assert gone == "1 older version destroyed, the last 24 Nov 2026, 12:00 UTC (1 day ago)"


def test_the_key_of_a_service_that_is_disconnected_is_not_due() -> None:
    away = replace(SERVICE, state=ServiceState.DISCONNECTED)
    [said] = rotation.versions(away, [a_version(1, KeyState.ACTIVE)], [], POLICY, NOW)
    assert "not due while its service is disconnected" in said


@pytest.mark.parametrize(
    ("state", "left", "why"),
    [
        (KeyState.ACTIVE, 0, "It is active"),
        (KeyState.PREPARED, 0, "A rotation is preparing it"),
        (KeyState.DEACTIVATED, 3, "3 KMIP objects lie under it."),
        (KeyState.COMPROMISED, 1, "1 KMIP object lies under it."),
        (KeyState.DEACTIVATED, 0, ""),
        (KeyState.COMPROMISED, 0, ""),
    ],
)
def test_only_a_version_that_is_old_and_empty_can_be_destroyed(state: KeyState, left: int, why: str) -> None:
    uses = [VersionUseRow("orders", 1, left), VersionUseRow("other", 1, 9)]
    [one] = rotation.old([a_version(1, state), a_version(9, KeyState.DESTROYED)], uses, "orders", NOW)
    assert bool(one.why_not) == bool(why)
    assert one.why_not.startswith(why)


def test_a_rotation_that_runs_shows_its_stage_and_never_goes_backwards() -> None:
    shares = []
    for stage in RotationPhase:
        for done in (0, 120, 300):
            going = rotation.progress(a_rotation(stage=stage, done=done))
            assert going is not None
            shares.append(going.share)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    going = rotation.progress(a_rotation())
    assert going is not None
    assert going.words.endswith(f"{MEANING[RotationPhase.REWRAP][1:]}: 120 of 300")
    assert rotation.progress(a_rotation("done")) is None
    assert rotation.progress(None) is None


def test_what_became_of_the_last_one_is_said_with_the_words_of_its_code() -> None:
    assert rotation.ended([], NOW) is None
    assert rotation.ended([a_rotation()], NOW) is None
    done = rotation.ended([a_rotation("done")], NOW)
    assert done is not None
    assert done.tone is Severity.GOOD
    assert done.meaning == (
        "The tenant key and every service key, 24 Nov 2026, 12:00 UTC (1 day ago), asked for by a person."
    )
    failed = rotation.ended([a_rotation("failed", problem="root_key_disabled")], NOW)
    assert failed is not None
    assert failed.tone is Severity.WARNING
    assert MEANING[RotationPhase.REWRAP] in failed.meaning
    assert "The root key is disabled." in failed.meaning
    assert failed.advice.endswith("Every key that worked works. Once this is mended, ask again.")
    unknown = rotation.ended([a_rotation("failed", problem="of_the_future")], NOW)
    assert unknown is not None
    assert "It failed with of_the_future." in unknown.meaning


def test_what_nobody_was_there_to_see_is_said_above_every_page() -> None:
    due = RotationRequest(tenant_key=False, services=RotationScope.DUE, scheduled=True)
    failed = a_rotation("failed", problem="root_key_disabled", wanted=due)
    [said] = rotation.notice(failed, TENANT, NOW)
    assert said.title == "Your keys were not rotated as your policy wants"
    assert MEANING[RotationPhase.REWRAP] in said.meaning
    assert "The root key is disabled." in said.meaning
    assert "it is tried again every hour" in said.advice
    ended = rotation.ended([failed], NOW)
    assert ended is not None
    assert ended.advice.endswith("Once this is mended, ask again; it is tried again by itself every hour.")
    [said] = rotation.notice(a_rotation(started_at=NOW - timedelta(hours=4)), TENANT, NOW)
    assert said.title == "A rotation of your keys does not come to its end"
    for quiet in (None, a_rotation(started_at=NOW), a_rotation("failed"), a_rotation("done", wanted=due)):
        assert rotation.notice(quiet, TENANT, NOW) == ()
    assert rotation.notice(failed, replace(TENANT, state=State.LOCKED), NOW) == ()


def test_it_cannot_be_asked_for_while_one_runs_or_nothing_opens() -> None:
    assert rotation.why_not(TENANT, None) == ""
    assert rotation.why_not(TENANT, a_rotation("failed")) == ""
    assert rotation.why_not(TENANT, a_rotation()).startswith("A rotation runs.")
    locked = rotation.why_not(replace(TENANT, state=State.LOCKED), None)
    assert locked == "Keys cannot be rotated while the tenant is locked."


def test_a_dry_run_lists_what_becomes_of_each_version() -> None:
    keys = [a_version(1, KeyState.DEACTIVATED), a_version(2, KeyState.ACTIVE), a_version(3, KeyState.DESTROYED)]
    plain = rotation.happens(rotation.EVERYTHING, keys, L2, NOW)
    assert [line.partition(":")[0] for line in plain] == ["`L2-acme-primary` version 1", "**orders** version 2"]
    bad = rotation.happens(rotation.compromised(rotation.EVERYTHING), keys, L2, NOW)
    assert len(bad) == 3
    assert bad[0].endswith("deleted for good once nothing lies under it, also for backups of the database")
    assert all("becomes compromised" in line for line in bad[1:])
    assert rotation.happens(rotation.TENANT_KEY, keys, L2, NOW) == plain[:1]
    assert rotation.happens(rotation.of_service("other"), keys, L2, NOW) == ()


def test_a_rotation_that_follows_the_root_key_says_so() -> None:
    wanted = RotationRequest(tenant_key=False, services=RotationScope.NONE, scheduled=True, root_key_version=3)
    assert rotation.whose(wanted) == "what lay under versions of the root key before 3"
    done = rotation.ended([a_rotation("done", wanted=wanted)], NOW)
    assert done is not None
    assert done.meaning.startswith("What lay under versions of the root key before 3, 24 Nov 2026")
    assert done.meaning.endswith("by itself, as what is new or left asks for.")
    due = replace(wanted, services=RotationScope.DUE, root_key_version=None)
    by_policy = rotation.ended([a_rotation("done", wanted=due)], NOW)
    assert by_policy is not None
    assert by_policy.meaning.endswith("by itself, as your policy wants.")
