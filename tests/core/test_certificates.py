from datetime import UTC, datetime, timedelta

import pytest

from core.certificates import Stage, stage

BEGINS = datetime(2026, 11, 25, tzinfo=UTC)
LIFE = timedelta(hours=72)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(), Stage.FRESH),
        (timedelta(hours=48) - SECOND, Stage.FRESH),
        (timedelta(hours=48), Stage.DUE),
        (timedelta(hours=60), Stage.DUE),
        (timedelta(hours=60) + SECOND, Stage.LATE),
        (LIFE - SECOND, Stage.LATE),
        (LIFE, Stage.LAPSED),
        (LIFE * 10, Stage.LAPSED),
    ],
)
def test_a_life_goes_from_fresh_over_due_and_late_to_lapsed(after: timedelta, expected: Stage) -> None:
    assert stage(BEGINS, BEGINS + LIFE, BEGINS + after) is expected


def test_what_never_lived_has_lapsed() -> None:
    assert stage(BEGINS, BEGINS, BEGINS) is Stage.LAPSED
