"""A part of a page that runs alone asks what the guard would ask, and says what the page would say."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.platform import DatabaseUnavailable
from dashboard.page_context import PageContext
from database.connection.database import Database
from tests.dashboard.scene import SECONDS
from tests.dashboard.seats import a_seat

NO_DATABASE = cast("Database", None)


# A run of AppTest waits by sleeping.
pytestmark = pytest.mark.integration


def _script(seat, draw, kind) -> None:
    from dashboard.components import fragments as parts  # noqa: PLC0415 - AppTest runs the text of this function

    getattr(parts, kind)(draw)(seat)


def run(seat: PageContext, draw: Callable[[object], None], kind: str = "part") -> AppTest:
    page = AppTest.from_function(_script, args=(seat, draw, kind), default_timeout=SECONDS).run()
    assert not page.exception
    return page


def test_whoever_signed_out_sees_nothing_of_it_and_the_whole_page_is_drawn_anew() -> None:
    answers, drawn = iter((False, True)), []
    seat = replace(a_seat(NO_DATABASE), present=lambda: next(answers))
    run(seat, drawn.append)
    assert len(drawn) == 1
    assert next(answers, "asked twice") == "asked twice"


def test_while_nobody_can_tell_who_is_signed_in_nothing_of_it_is_shown() -> None:
    def nobody_knows() -> bool:
        raise DatabaseUnavailable

    drawn: list[object] = []
    seat = replace(a_seat(NO_DATABASE), present=nobody_knows)
    page = run(seat, drawn.append)
    assert "Nothing was changed" in page.error[0].value
    assert drawn == []


def test_what_follows_by_itself_uses_no_sign_on_and_ends_with_it() -> None:
    left, drawn = iter((False, True, False)), []

    def used() -> bool:
        raise AssertionError("a part that draws itself is no use of the sign-on")

    seat = replace(a_seat(NO_DATABASE), present=used, left=lambda: next(left))
    page = run(seat, drawn.append, "following")
    assert len(drawn) == 1
    page.run()  # it ended; the whole page is drawn anew
    assert len(drawn) == 2


@pytest.mark.parametrize(("kind", "said"), [("part", "Nothing was changed"), ("following", "looked at again")])
def test_a_part_reports_that_the_database_does_not_answer(kind: str, said: str) -> None:
    def draw(_seat: object) -> None:
        raise DatabaseUnavailable

    assert said in run(a_seat(NO_DATABASE), draw, kind).error[0].value
