from datetime import UTC, datetime, timedelta, timezone

import pytest

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
        (from_now(), "just now"),
        (from_now(seconds=-4), "just now"),
        (from_now(seconds=-5), "5 seconds ago"),
        (from_now(minutes=-1), "1 minute ago"),
        (from_now(hours=-23, minutes=-59), "23 hours ago"),
        (from_now(days=-40), "40 days ago"),
        (from_now(days=2, hours=5), "in 2 days"),
        (from_now(seconds=59), "in 59 seconds"),
        (words._largest(timedelta()), "0 seconds"),
        (words.at(datetime(2026, 3, 1, 0, 30, tzinfo=BERLIN)), "28 Feb 2026, 23:30 UTC"),
        (words.moment(NOW - timedelta(minutes=3), NOW), "25 Nov 2026, 11:57 UTC (3 minutes ago)"),
        (words.moment(None, NOW), "never"),
        (words.moment(None, NOW, "not yet"), "not yet"),
        (words.span(-1), "0.0 s"),
        (words.span(0.44), "0.4 s"),
        (words.span(12.3), "12 s"),
        (words.span(60), "1 min 0 s"),
        (words.span(125), "2 min 5 s"),
        (words.span(7300), "2 hours"),
        (words.span(2e5), "2 days"),
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
