"""The page shown in place of a page that the caller may not see."""

import pytest
from streamlit.testing.v1 import AppTest

from core.errors.tenants import AccessDenied
from tests.dashboard.scene import SECONDS, text

# A run of AppTest waits by sleeping.
pytestmark = pytest.mark.integration


def _script(error) -> None:
    from dashboard import sign_in_page  # noqa: PLC0415 - AppTest runs the text of this function

    sign_in_page.draw_refusal(error)


def test_denied_access_shows_only_the_reason_and_a_link_to_the_callers_page() -> None:
    page = AppTest.from_function(_script, args=(AccessDenied(),), default_timeout=SECONDS).run()
    assert not page.exception
    assert text(page).splitlines() == [
        "Access denied",
        "403 Forbidden",
        "You do not have access to this page\\.",
        "Sign in with an account of its organization, or open your own page\\.",
        "Go to your page",
        "Sign in with another account",
    ]
    assert [link.proto.url for link in page.link_button] == ["/"]
