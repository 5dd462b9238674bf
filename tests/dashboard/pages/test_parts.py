"""A part of a page that runs alone asks what the guard would ask, and says what the page would say."""

from dataclasses import replace
from typing import cast

from streamlit.testing.v1 import AppTest

from database.connection import Database
from tenancy.errors import DatabaseUnavailable
from tests.dashboard.seats import a_seat

NO_DATABASE = cast("Database", None)


def _script(seat, draw) -> None:
    from dashboard.pages.parts import part  # noqa: PLC0415 - AppTest runs the text of this function

    part(draw)(seat)


def _following_script(seat, draw) -> None:
    from dashboard.pages.parts import following  # noqa: PLC0415 - the same

    following(draw)(seat)


def test_whoever_signed_out_sees_nothing_of_it_and_the_whole_page_is_drawn_anew() -> None:
    answers, drawn = iter((False, True)), []
    seat = replace(a_seat(NO_DATABASE), present=lambda: next(answers))
    page = AppTest.from_function(_script, args=(seat, drawn.append)).run()
    assert not page.exception
    assert len(drawn) == 1
    assert next(answers, "asked twice") == "asked twice"


def test_a_database_that_does_not_answer_is_said_where_the_part_would_be() -> None:
    def draw(_seat: object) -> None:
        raise DatabaseUnavailable

    page = AppTest.from_function(_script, args=(a_seat(NO_DATABASE), draw)).run()
    assert not page.exception
    assert "Nothing was changed" in page.error[0].value


def test_while_nobody_can_tell_who_is_signed_in_nothing_of_it_is_shown() -> None:
    def nobody_knows() -> bool:
        raise DatabaseUnavailable

    drawn: list[object] = []
    seat = replace(a_seat(NO_DATABASE), present=nobody_knows)
    page = AppTest.from_function(_script, args=(seat, drawn.append)).run()
    assert "Nothing was changed" in page.error[0].value
    assert drawn == []


def test_what_follows_by_itself_uses_no_sign_on_and_ends_with_it() -> None:
    left, drawn = iter((False, True, False)), []

    def used() -> bool:
        raise AssertionError("a part that draws itself is no use of the sign-on")

    seat = replace(a_seat(NO_DATABASE), present=used, left=lambda: next(left))
    page = AppTest.from_function(_following_script, args=(seat, drawn.append)).run()
    assert not page.exception
    assert len(drawn) == 1
    page.run()  # it ended; the whole page is drawn anew
    assert not page.exception
    assert len(drawn) == 2


def test_what_follows_says_that_the_database_does_not_answer_and_looks_again() -> None:
    def draw(_seat: object) -> None:
        raise DatabaseUnavailable

    page = AppTest.from_function(_following_script, args=(a_seat(NO_DATABASE), draw)).run()
    assert "looked at again by itself" in page.error[0].value
