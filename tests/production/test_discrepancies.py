"""The discrepancies that a drill may cause, in its own time only."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.production.topology.discrepancies import Period, unexpected

pytestmark = pytest.mark.unit
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAMAGE = Period(frozenset({"line-unreadable"}), NOON, NOON + timedelta(minutes=2))
OTHER = Period(frozenset(), NOON + timedelta(minutes=2), NOON + timedelta(minutes=9))


@pytest.mark.parametrize(
    ("kind", "at", "expected"),
    [
        ("line-unreadable", NOON + timedelta(seconds=1), True),
        ("line-unreadable", NOON - timedelta(seconds=1), False),
        ("line-unreadable", NOON + timedelta(minutes=3), False),
        ("line-unreadable", None, False),
        ("unrecorded-use", NOON + timedelta(seconds=1), False),
    ],
    ids=["in the drill", "before it", "in a later drill", "without a time", "of another kind"],
)
def test_discrepancy_is_expected_only_of_its_kind_and_in_its_drill(
    kind: str, at: datetime | None, *, expected: bool
) -> None:
    found = {"kind": kind, "at": at and at.isoformat()}
    assert unexpected([found], [DAMAGE, OTHER]) == ([] if expected else [found])
    assert unexpected([found], []) == [found]
