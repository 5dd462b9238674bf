"""The notice before a session ends: it appears two minutes before, and only its button counts as activity."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.auth.authorization import SessionAuthorizer
from dashboard.auth.routes import of_tenant
from dashboard.components.session_notice import is_due
from tests.dashboard.people import ACME, Clock, a_guard, claims_of
from tests.dashboard.scene import SECONDS, text
from tests.database.builders import a_provisioned_tenant
from tests.database.fixtures import Field

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("idle", "due"),
    [(timedelta(minutes=30), timedelta(minutes=2)), (timedelta(minutes=1), timedelta(seconds=30))],
)
def test_the_notice_is_due_two_minutes_before_the_end_or_half_of_a_short_idle_time(
    idle: timedelta, due: timedelta
) -> None:
    assert is_due(NOW + due, NOW, idle)
    assert not is_due(NOW + due + timedelta(seconds=1), NOW, idle)


@pytest.fixture
def guard(field: Field, clock: Clock) -> SessionAuthorizer:
    a_provisioned_tenant(field.open("worker"), ACME)
    return a_guard(field.open("dashboard"), clock)


def _script(guard, sign_on) -> None:
    import streamlit as st  # noqa: PLC0415 - AppTest runs the text of this function

    from dashboard.components.session_notice import draw_session_notice  # noqa: PLC0415 - the same

    @st.fragment
    def notice() -> None:
        draw_session_notice(
            guard.ends_at(sign_on), sign_on.expires_at, guard.now(), guard.idle, lambda: guard.holds(sign_on, "")
        )

    notice()


@pytest.mark.integration
def test_only_the_button_of_the_notice_counts_as_activity(guard: SessionAuthorizer, clock: Clock) -> None:
    sign_on = guard.admit(claims_of(clock, exp=int(clock().timestamp()) + 7200), of_tenant(ACME), {}, "")
    page = AppTest.from_function(_script, args=(guard, sign_on), default_timeout=SECONDS)
    draw = partial(page.run)
    assert text(draw()) == ""
    clock.advance(minutes=28, seconds=30)
    ends_at = guard.ends_at(sign_on)
    assert f"You will be signed out at {ends_at:%H\\:%M\\:%S} UTC" in text(draw())
    assert guard.ends_at(sign_on) == ends_at
    page.button(key="session-stay").click().run()
    assert not page.exception
    assert guard.ends_at(sign_on) == clock() + guard.idle
    assert text(draw()) == ""


@pytest.mark.integration
def test_no_activity_extends_the_end_of_the_sign_on(guard: SessionAuthorizer, clock: Clock) -> None:
    sign_on = guard.admit(claims_of(clock, exp=int(clock().timestamp()) + 600), of_tenant(ACME), {}, "")
    clock.advance(minutes=9)
    page = AppTest.from_function(_script, args=(guard, sign_on), default_timeout=SECONDS).run()
    assert f"Your sign-in is valid until {sign_on.expires_at:%H\\:%M\\:%S} UTC" in text(page)
    assert [button.key for button in page.button] == ["session-sign-in"]
