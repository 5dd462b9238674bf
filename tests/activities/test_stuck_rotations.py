"""Rotations that did not come to their end are counted at each look, and told once until one does."""

from tenancy.rotation import Scope
from tests.activities.connecting import operator
from tests.activities.counting import counting
from tests.activities.rotating import Rotating, bao, opener, rotating
from tests.activities.test_rotation import age
from tests.database.fixtures import Field

__all__ = ["bao", "opener", "operator", "rotating"]  # fixtures that pytest finds here by their names


def look(rotating: Rotating) -> list[str]:
    """Return what was counted, by its reason."""
    check = next(a for a in rotating.tenant.parts.platform if a.__name__ == "check_rotations")
    return [labels["why"] for labels in counting(check).of("openkcm_rotations_stuck")]


def recorded(rotating: Rotating) -> list[dict[str, str]]:
    return [one["details"] for one in rotating.tenant.audited() if one["name"] == "key.rotation_stuck"]


def told(rotating: Rotating) -> int:
    with rotating.tenant.database.tenant_tx(rotating.tenant_id) as tx:
        return sum(one.kind == "rotation-stuck" and one.channel == "email" for one, _ in tx.outbox.all())


def fail(rotating: Rotating) -> None:
    """Let a rotation that the schedule began fail in its second step."""
    step = rotating.wants(services=Scope.DUE, tenant_key=False).model_copy(update={"scheduled": True})
    rotating.rotate(step, until="plan-rotation")
    rotating.give_up(step, "root_key_disabled", "prepare-service-keys")


def test_what_is_due_and_rotated_in_time_is_no_news(rotating: Rotating, field: Field) -> None:
    age(field, "service_key set activated_at", 90)
    assert (look(rotating), recorded(rotating), told(rotating)) == ([], [], 0)


def test_a_scheduled_rotation_that_fails_is_counted_each_time_and_told_once_until_one_comes_to_its_end(
    rotating: Rotating, field: Field
) -> None:
    age(field, "service_key set activated_at", 90)
    for _ in range(2):
        fail(rotating)
        assert look(rotating) == ["failed"]
    assert recorded(rotating) == [{"why": "failed", "rotation": "1", "code": "root_key_disabled"}]
    assert told(rotating) == 1
    age(field, "service_key set activated_at", 92)
    rotating.rotate(rotating.wants(services=Scope.DUE, tenant_key=False))
    assert look(rotating) == []
    age(field, "service_key set activated_at", 90)
    fail(rotating)
    assert look(rotating) == ["failed"]
    assert (len(recorded(rotating)), told(rotating)) == (2, 2)
    rotating.tenant.assert_audited_once()


def test_a_rotation_that_does_not_come_to_its_end_or_was_never_begun_is_told_too(
    rotating: Rotating, field: Field
) -> None:
    age(field, "service_key set activated_at", 92)
    assert look(rotating) == ["overdue"]
    rotating.rotate(rotating.wants(services=Scope.DUE, tenant_key=False), until="prepare-service-keys")
    assert look(rotating) == []
    age(field, "rotation set started_at", 1)
    assert look(rotating) == ["unfinished"]
    assert [one["why"] for one in recorded(rotating)] == ["overdue", "unfinished"]
    assert told(rotating) == 1
