from datetime import UTC, datetime, timedelta

import pytest

from core.certificates import ExpiryStage, stage

BEGINS = datetime(2026, 11, 25, tzinfo=UTC)
LIFE = timedelta(hours=72)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (timedelta(), ExpiryStage.FRESH),
        (timedelta(hours=48) - SECOND, ExpiryStage.FRESH),
        (timedelta(hours=48), ExpiryStage.DUE),
        (timedelta(hours=60), ExpiryStage.DUE),
        (timedelta(hours=60) + SECOND, ExpiryStage.LATE),
        (LIFE - SECOND, ExpiryStage.LATE),
        (LIFE, ExpiryStage.LAPSED),
        (LIFE * 10, ExpiryStage.LAPSED),
    ],
)
def test_stage_follows_the_remaining_lifetime(after: timedelta, expected: ExpiryStage) -> None:
    assert stage(BEGINS, BEGINS + LIFE, BEGINS + after) is expected


def test_empty_lifetime_has_lapsed() -> None:
    assert stage(BEGINS, BEGINS, BEGINS) is ExpiryStage.LAPSED
