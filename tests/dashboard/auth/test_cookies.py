import pytest

from dashboard.auth import cookies
from tests.dashboard.people import ACME, ORIGIN, SECRET, Clock, claims_of, cookie_of

CLAIMS = claims_of(Clock())


def test_a_signed_cookie_returns_its_claims() -> None:
    read = cookies.read_claims(cookie_of(CLAIMS), SECRET, ORIGIN)
    assert read is not None
    assert read["openkcm_tenant"] == ACME


def test_without_a_cookie_there_are_no_claims() -> None:
    assert cookies.read_claims({"another": "cookie"}, SECRET, ORIGIN) is None


@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "é", "a.b.c", "null", '{"sub":"ada","is_logged_in":true}'),
        "2|1:0|10:1|15:_streamlit_user|4:e30=|00",
        cookie_of(CLAIMS, secret=f"not {SECRET}")[cookies.USER],
        cookie_of(CLAIMS, origin="https://elsewhere.example")[cookies.USER],
    ],
    ids=["empty", "letter", "accent", "three parts", "null", "JSON", "tornado", "other secret", "other origin"],
)
def test_a_cookie_without_this_signature_and_origin_is_rejected(value: str) -> None:
    with pytest.raises(cookies.InvalidCookie):
        cookies.read_claims({cookies.USER: value}, SECRET, ORIGIN)


def test_a_cookie_with_one_altered_character_is_rejected() -> None:
    value = cookie_of(CLAIMS)[cookies.USER]
    # Not the last character of a part: some of its bits are unused, so that another one decodes to the same bytes.
    for place in [one for one in range(len(value)) if value[one + 1 : one + 2] not in {"", "."}]:
        altered = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
        with pytest.raises(cookies.InvalidCookie):
            cookies.read_claims({cookies.USER: altered}, SECRET, ORIGIN)
