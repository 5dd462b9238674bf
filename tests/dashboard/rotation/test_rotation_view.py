"""Texts about key versions and rotations, without a database."""

from datetime import timedelta

import pytest

from core.keys.rotation import MEANING, KeyState, RotationPhase, RotationScope
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
    return row._replace(**changed)


def a_rotation(state: str = "running", stage: RotationPhase = RotationPhase.REWRAP, **changed: object) -> RotationRow:
    wanted = RotationRequest(tenant_key=True, services=RotationScope.ALL)
    ended = None if state == "running" else NOW - DAY
    return RotationRow(1, wanted, 1, state, stage, 300, 120, None, NOW - 2 * DAY, ended)._replace(**changed)


def test_the_tenant_key_shows_its_version_and_next_rotation() -> None:
    texts = rotation.tenant_key(L2, POLICY, NOW)
    assert (texts.version, texts.older) == ("Version 1 since 15 Nov 2026, 12:00 UTC (10 days ago).", "")
    assert texts.due == "Rotation due 15 Nov 2027, 12:00 UTC (in 355 days) by your policy (365 days)."
    assert round(texts.share * 365) == 10
    retired = rotation.tenant_key(L2._replace(version=3, oldest=3), POLICY, NOW)
    assert retired.older == "Versions before 3 are retired."
    left = rotation.tenant_key(L2._replace(version=3, oldest=2), POLICY, NOW)
    assert left.older == "Versions from 2 on can still unwrap."


def test_an_overdue_key_is_rotated_automatically() -> None:
    late = rotation.tenant_key(L2._replace(rotated_at=NOW - 366 * DAY), POLICY, NOW)
    assert late.due == "Rotation due now by your policy (365 days); it runs automatically within the hour."
    assert late.share == 1.0


@pytest.mark.parametrize(
    ("state", "left", "why"),
    [
        (KeyState.DEACTIVATED, 3, "It protects 3 KMIP objects"),
        (KeyState.COMPROMISED, 1, "It protects 1 KMIP object"),
        (KeyState.DEACTIVATED, 0, ""),
        (KeyState.COMPROMISED, 0, ""),
    ],
)
def test_only_an_unused_version_can_be_destroyed(state: KeyState, left: int, why: str) -> None:
    uses = [VersionUseRow("orders", 1, left), VersionUseRow("other", 1, 9)]
    [one] = rotation.old([a_version(1, state), a_version(9, KeyState.DESTROYED)], uses, "orders", NOW)
    assert bool(one.why_not) == bool(why)
    assert one.why_not.startswith(why)


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.PREPARED, KeyState.DESTROYED])
def test_a_version_in_use_or_destroyed_is_not_offered_for_destruction(state: KeyState) -> None:
    assert rotation.old([a_version(1, state)], [], "orders", NOW) == ()


def test_a_running_rotation_shows_its_stage_with_increasing_progress() -> None:
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


def test_the_last_rotation_shows_its_result_with_the_text_of_its_code() -> None:
    assert rotation.ended([], NOW) is None
    assert rotation.ended([a_rotation()], NOW) is None
    done = rotation.ended([a_rotation("done")], NOW)
    assert done is not None
    assert done.tone is Severity.GOOD
    assert done.meaning == (
        "The tenant key and every service key, 24 Nov 2026, 12:00 UTC (1 day ago), requested by a user."
    )
    failed = rotation.ended([a_rotation("failed", problem="root_key_disabled")], NOW)
    assert failed is not None
    assert failed.tone is Severity.WARNING
    assert MEANING[RotationPhase.REWRAP] in failed.meaning
    assert "The root key is disabled." in failed.meaning
    assert failed.advice.endswith("All keys still work. Fix the cause, then retry.")
    unknown = rotation.ended([a_rotation("failed", problem="of_the_future")], NOW)
    assert unknown is not None
    assert "Failed with of_the_future." in unknown.meaning


def test_a_failed_scheduled_rotation_has_a_notice_above_every_page() -> None:
    due = RotationRequest(tenant_key=False, services=RotationScope.DUE, scheduled=True)
    failed = a_rotation("failed", problem="root_key_disabled", wanted=due)
    [said] = rotation.notice(failed, TENANT, NOW)
    assert said.title == "Scheduled key rotation failed"
    assert MEANING[RotationPhase.REWRAP] in said.meaning
    assert "The root key is disabled." in said.meaning
    assert "is retried every hour" in said.advice
    ended = rotation.ended([failed], NOW)
    assert ended is not None
    assert ended.advice.endswith("Fix the cause, then retry; it is also retried automatically every hour.")
    [said] = rotation.notice(a_rotation(started_at=NOW - timedelta(hours=4)), TENANT, NOW)
    assert said.title == "Key rotation is delayed"
    for quiet in (None, a_rotation(started_at=NOW), a_rotation("failed"), a_rotation("done", wanted=due)):
        assert rotation.notice(quiet, TENANT, NOW) == ()
    assert rotation.notice(failed, TENANT._replace(state=State.LOCKED), NOW) == ()


def test_a_rotation_is_not_available_while_one_runs_or_the_tenant_is_locked() -> None:
    assert rotation.why_not(TENANT, None) == ""
    assert rotation.why_not(TENANT, a_rotation("failed")) == ""
    assert rotation.why_not(TENANT, a_rotation()).startswith("A rotation is running.")
    locked = rotation.why_not(TENANT._replace(state=State.LOCKED), None)
    assert locked == "Not available while the tenant is locked."


def test_a_dry_run_lists_the_effect_on_each_version() -> None:
    keys = [a_version(1, KeyState.DEACTIVATED), a_version(2, KeyState.ACTIVE), a_version(3, KeyState.DESTROYED)]
    plain = rotation.happens(rotation.EVERYTHING, keys, L2, NOW)
    assert [line.partition(":")[0] for line in plain] == ["`L2-acme-primary` version 1", "**orders** version 2"]
    bad = rotation.happens(rotation.compromised(rotation.EVERYTHING), keys, L2, NOW)
    assert len(bad) == 3
    assert bad[0].endswith("deleted permanently once it wraps no key, also for database backups")
    assert all("becomes compromised" in line for line in bad[1:])
    assert rotation.happens(rotation.TENANT_KEY, keys, L2, NOW) == plain[:1]
    assert rotation.happens(rotation.of_service("other"), keys, L2, NOW) == ()


def test_a_rotation_after_a_new_root_key_version_is_named() -> None:
    wanted = RotationRequest(tenant_key=False, services=RotationScope.NONE, scheduled=True, root_key_version=3)
    assert rotation.whose(wanted) == "wraps of root key versions before 3"
    done = rotation.ended([a_rotation("done", wanted=wanted)], NOW)
    assert done is not None
    assert done.meaning.startswith("Wraps of root key versions before 3, 24 Nov 2026")
    assert done.meaning.endswith("automatic, as a follow-up.")
    due = wanted._replace(services=RotationScope.DUE, root_key_version=None)
    by_policy = rotation.ended([a_rotation("done", wanted=due)], NOW)
    assert by_policy is not None
    assert by_policy.meaning.endswith("automatic, by your policy.")
