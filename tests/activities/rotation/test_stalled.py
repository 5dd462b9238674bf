"""Stalled rotations are counted at each check and notified once until one completes."""

from core.keys.rotation import RotationScope
from core.notifications import Channel
from tests.activities.counting import counting
from tests.activities.rotation.rotating import Rotating
from tests.activities.rotation.test_steps import age
from tests.database.fixtures import Field


def check(rotating: Rotating) -> list[str]:
    """Run the check and return the reasons that it counted."""
    check = next(a for a in rotating.tenant.parts.platform if a.__name__ == "check_rotations")
    return [labels["why"] for labels in counting(check).of("openkcm_rotations_stalled")]


def recorded(rotating: Rotating) -> list[dict[str, str]]:
    return [one["details"] for one in rotating.records("key.rotation_stalled")]


def notifications(rotating: Rotating) -> int:
    return rotating.announced().count("rotation-stalled") // sum(not one.is_of_target for one in Channel)


def fail(rotating: Rotating) -> None:
    """Make a scheduled rotation fail in its second step."""
    step = rotating.wants(services=RotationScope.DUE, tenant_key=False).model_copy(update={"scheduled": True})
    rotating.rotate(step, until="plan-rotation")
    rotating.give_up(step, "root_key_disabled", "prepare-service-keys")


def test_failed_scheduled_rotation_is_counted_each_time_and_notified_once_until_one_completes(rotating, field) -> None:
    age(field, "service_key set activated_at", 90)
    assert (check(rotating), recorded(rotating), notifications(rotating)) == ([], [], 0)
    for _ in range(2):
        fail(rotating)
        assert check(rotating) == ["failed"]
    assert recorded(rotating) == [{"why": "failed", "rotation": "1", "code": "root_key_disabled"}]
    assert notifications(rotating) == 1
    age(field, "service_key set activated_at", 92)
    rotating.rotate(rotating.wants(services=RotationScope.DUE, tenant_key=False))
    assert check(rotating) == []
    age(field, "service_key set activated_at", 90)
    fail(rotating)
    assert check(rotating) == ["failed"]
    assert (len(recorded(rotating)), notifications(rotating)) == (2, 2)
    rotating.tenant.assert_audited_once()


def test_unfinished_and_overdue_rotations_are_notified_too(rotating: Rotating, field: Field) -> None:
    age(field, "service_key set activated_at", 92)
    assert check(rotating) == ["overdue"]
    rotating.rotate(rotating.wants(services=RotationScope.DUE, tenant_key=False), until="prepare-service-keys")
    assert check(rotating) == []
    age(field, "rotation set started_at", 1)
    assert check(rotating) == ["unfinished"]
    assert [one["why"] for one in recorded(rotating)] == ["overdue", "unfinished"]
    assert notifications(rotating) == 1
