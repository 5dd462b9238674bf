"""A fragment that reruns alone checks the session, and reports a database error."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import DatabaseUnavailable
from core.tenants.status import REPORT_SECONDS
from dashboard.components.fragments import REFRESH_SECONDS
from dashboard.page_context import PageContext
from database.connection.database import Database
from tests.dashboard.scene import SECONDS
from tests.dashboard.seats import a_page_context

NO_DATABASE = cast("Database", None)


# A run of AppTest waits by sleeping.
pytestmark = pytest.mark.integration


def _script(context, draw, kind) -> None:
    from dashboard.components import fragments as parts  # noqa: PLC0415 - AppTest runs the text of this function

    getattr(parts, kind)(draw)(context)


def run(context: PageContext, draw: Callable[[object], None], kind: str = "part") -> AppTest:
    page = AppTest.from_function(_script, args=(context, draw, kind), default_timeout=SECONDS).run()
    assert not page.exception
    return page


def test_after_sign_out_a_fragment_draws_nothing_and_the_page_reruns() -> None:
    answers, drawn = iter((False, True)), []
    context = replace(a_page_context(NO_DATABASE), present=lambda: next(answers))
    run(context, drawn.append)
    assert len(drawn) == 1
    assert next(answers, "asked twice") == "asked twice"


def test_without_session_information_a_fragment_shows_nothing() -> None:
    def unavailable() -> bool:
        raise DatabaseUnavailable

    drawn: list[object] = []
    context = replace(a_page_context(NO_DATABASE), present=unavailable)
    page = run(context, drawn.append)
    assert "Nothing was changed" in page.error[0].value
    assert drawn == []


def test_a_polling_fragment_does_not_keep_the_session_and_ends_with_it() -> None:
    left, drawn = iter((False, True, False)), []

    def used() -> bool:
        raise AssertionError("polling must not count as activity")

    context = replace(a_page_context(NO_DATABASE), present=used, left=lambda: next(left))
    page = run(context, drawn.append, "polling_fragment")
    assert len(drawn) == 1
    page.run()  # the session has ended, so the whole page reruns
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("kind", "said"), [("part", "Nothing was changed"), ("polling_fragment", "refreshes automatically")]
)
def test_a_fragment_reports_that_the_database_does_not_respond(kind: str, said: str) -> None:
    def draw(_seat: object) -> None:
        raise DatabaseUnavailable

    assert said in run(a_page_context(NO_DATABASE), draw, kind).error[0].value


def test_the_silence_of_a_process_is_shown_within_ten_seconds_on_a_busy_machine() -> None:
    """It is silent for the age of a report, and the next refresh shows it: two seconds are left for the drawing."""
    assert REPORT_SECONDS + REFRESH_SECONDS <= 8


def test_a_fragment_does_not_check_a_session_that_the_run_has_admitted() -> None:
    def asked() -> bool:
        raise AssertionError("a second check of the session in one run")

    drawn: list[object] = []
    run(replace(a_page_context(NO_DATABASE), admitted=lambda: True, present=asked), drawn.append)
    assert len(drawn) == 1
