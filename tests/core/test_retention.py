from datetime import UTC, datetime

import pytest

from core.retention import DELETED, archive_cutoff, days_of


def test_chosen_days_replace_the_defaults_of_their_tables() -> None:
    days = days_of({"outbox": 400})
    assert days["outbox"] == 400
    assert {table: number for table, number in days.items() if table != "outbox"} == {
        table: one.days for table, one in DELETED.items() if table != "outbox"
    }
    assert list(days) == list(DELETED)


@pytest.mark.parametrize(
    ("chosen", "message"), [({"outbox": 29}, "at least 30"), ({"audit_event": 500}, "no retention in days")]
)
def test_other_tables_and_days_below_the_minimum_are_rejected(chosen: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        days_of(chosen)


def test_results_of_an_assessment_are_deleted_before_its_lines() -> None:
    assert list(DELETED).index("boundary_result") < list(DELETED).index("boundary_clause")


def test_archive_ends_at_the_start_of_a_month() -> None:
    assert archive_cutoff(datetime(2026, 11, 28, 13, 5, tzinfo=UTC), 90) == datetime(2026, 8, 1, tzinfo=UTC)
    assert archive_cutoff(datetime(2026, 11, 29, tzinfo=UTC), 90) == datetime(2026, 8, 1, tzinfo=UTC)
