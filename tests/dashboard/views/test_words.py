from datetime import UTC, datetime, timedelta, timezone

import pytest

from dashboard.views import words

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 services"), (1, "1 service"), (2, "2 services"), (1250, "1,250 services")]
)
def test_a_number_comes_with_its_noun(number, text):
    assert words.count(number, "service") == text


def test_a_noun_may_have_a_plural_of_its_own():
    assert [words.count(number, "key of hers", "keys of hers") for number in (1, 2)] == [
        "1 key of hers",
        "2 keys of hers",
    ]


def test_a_time_is_said_in_utc():
    berlin = timezone(timedelta(hours=1))
    assert words.at(datetime(2026, 3, 1, 0, 30, tzinfo=berlin)) == "28 Feb 2026, 23:30 UTC"


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (timedelta(), "just now"),
        (timedelta(seconds=-4), "just now"),
        (timedelta(seconds=-5), "5 seconds ago"),
        (timedelta(minutes=-1), "1 minute ago"),
        (timedelta(hours=-23, minutes=-59), "23 hours ago"),
        (timedelta(days=-40), "40 days ago"),
        (timedelta(days=2, hours=5), "in 2 days"),
        (timedelta(seconds=59), "in 59 seconds"),
    ],
)
def test_a_distance_is_said_in_its_largest_unit(distance, text):
    assert words.relative(NOW + distance, NOW) == text


def test_a_moment_says_both_and_never_when_there_was_none():
    assert words.moment(NOW - timedelta(minutes=3), NOW) == "25 Nov 2026, 11:57 UTC (3 minutes ago)"
    assert words.moment(None, NOW) == "never"
    assert words.moment(None, NOW, "not yet") == "not yet"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (12.3, "12 s"),
        (60, "1 min 0 s"),
        (125, "2 min 5 s"),
        (7300, "2 hours"),
        (2e5, "2 days"),
    ],
)
def test_a_duration_is_as_exact_as_it_matters(seconds, text):
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("several", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_words_are_listed_as_in_a_sentence(several, text):
    assert words.listed(several) == text


def test_no_time_at_all_is_no_second():
    assert words._largest(timedelta()) == "0 seconds"


def test_a_text_from_outside_is_shown_as_it_is():
    assert words.plain("ACME  *Corp* [x](y)\n# :material/key:") == (r"ACME \*Corp\* \[x\]\(y\) \# \:material/key\:")


def test_a_name_as_code_is_neither_markup_nor_a_link() -> None:
    assert words.code("https://bao.example/a`![x](b)`") == "`https://bao.example/a'![x](b)'`"
