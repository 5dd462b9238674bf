from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from dashboard.components.local_time import with_local_time
from tests.dashboard.scene import SECONDS, text

TIME = datetime(2026, 11, 29, 17, 36, 4, tzinfo=UTC)
LATE = datetime(2026, 11, 29, 23, 36, 4, tzinfo=UTC)
SUMMER = datetime(2026, 7, 1, 17, 36, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "zone", "shown"),
    [
        (TIME, "Europe/Berlin", "17:36:04 UTC (18:36 local)"),
        (TIME, "Asia/Kolkata", "17:36:04 UTC (23:06 local)"),
        (LATE, "Europe/Berlin", "23:36:04 UTC (30 Nov, 00:36 local)"),
        (SUMMER, "Europe/Berlin", "1 Jul 2026, 17:36:04 UTC (19:36 local)"),
        (SUMMER, None, "1 Jul 2026, 17:36:04 UTC"),
        (TIME.astimezone(), "America/New_York", "17:36:04 UTC (12:36 local)"),
        *((TIME, zone, "17:36:04 UTC") for zone in ("UTC", "Africa/Abidjan", None, "", "Europe", "Mars/Olympus")),
        *((TIME, zone, "17:36:04 UTC") for zone in ("../etc/passwd", "/etc/passwd", "a" * 300, "\x00", "\ud800")),
    ],
)
def test_a_time_is_shown_in_utc_with_the_local_clock_beside_it(time, zone, shown) -> None:
    assert with_local_time(time, zone, TIME) == shown


@given(st.text(max_size=40))
def test_a_zone_of_a_browser_never_changes_the_time_in_utc(zone: str) -> None:
    assert with_local_time(TIME, zone, TIME).startswith("17:36:04 UTC")


def _script() -> None:
    from datetime import UTC, datetime  # noqa: PLC0415 - AppTest runs the text of this function

    import streamlit as st  # noqa: PLC0415 - AppTest runs the text of this function

    from dashboard.components.local_time import shown_time  # noqa: PLC0415 - AppTest runs the text of this function

    now = datetime(2026, 11, 29, 17, 36, 4, tzinfo=UTC)
    st.write(shown_time(now, now))


@pytest.mark.integration
def test_a_browser_without_a_time_zone_is_shown_utc() -> None:
    page = AppTest.from_function(_script, default_timeout=SECONDS).run()
    assert not page.exception
    assert text(page) == r"17\:36\:04 UTC"
