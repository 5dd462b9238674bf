from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.requests import UnknownRegion
from dashboard.components import formatting as refusals
from dashboard.components import formatting as words
from openkcm.errors import OpenKcmError

BERLIN = timezone(timedelta(hours=1))
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def from_now(**distance: float) -> str:
    return words.relative(NOW + timedelta(**distance), NOW)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        *(
            (words.count(n, "service"), text)
            for n, text in ((0, "0 services"), (1, "1 service"), (1250, "1,250 services"))
        ),
        *(
            (words.count(n, "key of hers", "keys of hers"), text)
            for n, text in ((1, "1 key of hers"), (2, "2 keys of hers"))
        ),
        *((words.short(n), text) for n, text in ((0, "0"), (999_999, "999,999"), (109_150_113, "109.2 M"))),
        (from_now(), "just now"),
        (from_now(seconds=-4), "just now"),
        (from_now(seconds=-5), "5 seconds ago"),
        (from_now(minutes=-1), "1 minute ago"),
        (from_now(hours=-23, minutes=-29), "23 hours ago"),
        (from_now(hours=-23, minutes=-59), "1 day ago"),
        (from_now(minutes=59, seconds=40), "in 1 hour"),
        (from_now(days=90, seconds=-1), "in 90 days"),
        (from_now(hours=24, seconds=-1), "in 1 day"),
        (from_now(days=-40), "40 days ago"),
        (from_now(days=2, hours=5), "in 2 days"),
        (from_now(seconds=59), "in 59 seconds"),
        (words._rounded(timedelta()), "0 seconds"),
        (words.at(datetime(2026, 3, 1, 0, 30, tzinfo=BERLIN)), "28 Feb 2026, 23:30 UTC"),
        (words.moment(NOW - timedelta(minutes=3), NOW), "25 Nov 2026, 11:57 UTC (3 minutes ago)"),
        (words.moment(None, NOW), "never"),
        (words.moment(None, NOW, "not yet"), "not yet"),
        (words.span(-1), "0.0 s"),
        (words.span(0.44), "0.4 s"),
        (words.span(9.97), "10 s"),
        (words.span(12.3), "12 s"),
        (words.span(60), "1 min 0 s"),
        (words.span(125), "2 min 5 s"),
        (words.span(7300), "2 hours"),
        (words.span(2e5), "2 days"),
        (words.span(5400), "2 hours"),
        *(
            (words.listed(list(names)), text)
            for names, text in (("", ""), ("a", "a"), ("ab", "a and b"), ("abc", "a, b and c"))
        ),
        (words.plain("ACME  *Corp* [x](y)\n# :material/key:"), r"ACME \*Corp\* \[x\]\(y\) \# \:material/key\:"),
        (words.code("https://bao.example/a`![x](b)`"), "`https://bao.example/a'![x](b)'`"),
        (
            refusals.said(UnknownRegion(("eu-west-1",))),
            "OpenKCM is not offered in this region. Choose one of: eu-west-1.",
        ),
        (refusals.said(OpenKcmError("out of reach", "")), "Out of reach."),
    ],
)
def test_numbers_times_names_and_errors_are_formatted(said: str, text: str) -> None:
    assert said == text


@given(st.integers(1, 2000), st.sampled_from(["days", "hours", "minutes"]), st.floats(0, 0.499))
def test_a_deadline_reads_as_it_was_set_within_its_first_half_unit(number: int, unit: str, passed: float) -> None:
    """A deadline of 90 days that read "in 89 days" would look like an error of the platform."""
    most = {"days": 2000, "hours": 23, "minutes": 59}[unit]
    number = min(number, most)
    size = timedelta(**{unit: 1})
    # Below two units, half of the next smaller unit: an hour reads as minutes from 59.5 of them on.
    elapsed = size * passed if number > 1 else size * passed / 60
    said = words.relative(NOW + number * size, NOW + elapsed)
    assert said == f"in {words.count(number, unit.removesuffix('s'))}"


@given(st.timedeltas(timedelta(seconds=5), timedelta(days=3000)))
def test_a_distance_is_never_further_from_the_truth_than_half_its_unit(distance: timedelta) -> None:
    number, unit = words._rounded(distance).split()
    size = timedelta(**{f"{unit.removesuffix('s')}s": 1})
    assert abs(int(number.replace(",", "")) * size - distance) <= size / 2
