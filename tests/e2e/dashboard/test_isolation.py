"""A user sees no page of another tenant in a real browser, even with stolen, forged or expired cookies."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from core.tenants.roles import OPERATORS
from dashboard.auth import cookies
from dashboard.auth.authorization import NOT_SIGNED_IN, OTHER_TENANTS_USER
from openkcm.contract.audit_events import AuditName
from tests.concurrency import wait_until
from tests.e2e.dashboard.harness.browser import SIGN_IN, title
from tests.e2e.dashboard.harness.dashboard_pages import ADA, OLGA
from tests.e2e.dashboard.harness.sign_ons import cookie, sign_in, subject
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION, new_tenant

AT_ONCE_MS = 20_000

# Returns whether the server accepts the socket of a page with the cookies of this window; `where` is the page's URL.
_SOCKET = """
where => new Promise(settle => {
    const socket = new WebSocket(where.replace(/^http/, "ws") + "_stcore/stream", ["streamlit"]);
    socket.onopen = () => settle("open");
    socket.onerror = () => settle("refused");
})
"""


@pytest.fixture(scope="module")
def other(stack: Stack) -> str:
    return new_tenant(stack, "neighbour", "Neighbour Inc")


@pytest.fixture(params=["other tenant", "operator", "expired", "forged", "no tenant"])
def refused(request: pytest.FixtureRequest, stack: Stack, tenant: str, other: str) -> tuple[dict[str, str], str, str]:
    """Return a cookie without a right to the tenant's page, and the stream and actor of its audit record.

    Each cookie has a different reason, because the same reason at the same page is recorded once per minute.
    """
    tenant_claim, roles = stack.settings.oidc_tenant_claim, stack.settings.oidc_roles_claim
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    match request.param:
        case "other tenant":
            return cookie(stack, other), other, subject(other, ADA)
        case "operator":
            olga = {"sub": "olga@platform.example", tenant_claim: None, roles: ["operator"]}
            return cookie(stack, tenant, **olga), OPERATORS, "olga@platform.example"
        case "expired":
            times = {"iat": int(long_ago.timestamp()), "exp": int((long_ago + timedelta(hours=1)).timestamp())}
            return cookie(stack, tenant, **times), OPERATORS, NOT_SIGNED_IN
        case "forged":
            return cookie(stack, tenant, secret="a secret that was guessed: " + "x" * 32), OPERATORS, NOT_SIGNED_IN
    return cookie(stack, tenant, **{tenant_claim: None}), OPERATORS, NOT_SIGNED_IN


@contextmanager
def recorded(stack: Stack, expected: dict[str, str]) -> Iterator[None]:
    """Assert that the block adds a record of a rejection with the expected actor to each stream."""
    before = {tenant_id: stack.last_record(tenant_id) for tenant_id in expected}
    yield

    def found() -> dict[str, set[str]]:
        return {tenant_id: _refused(stack, tenant_id, after) for tenant_id, after in before.items()}

    wait_until(
        lambda: all(actor in found()[tenant_id] for tenant_id, actor in expected.items()),
        lambda: f"the streams contain {found()}, not {expected}",
    )


def _refused(stack: Stack, tenant_id: str, after: int) -> set[str]:
    events = stack.events(tenant_id, after)
    return {one["actor"] for one in events if one["name"] == AuditName.ACCESS_REFUSED and one["outcome"] == "refused"}


def test_a_cookie_without_a_right_to_the_page_gets_403_and_no_socket(stack, tenant, visitor, refused):
    cookies_of_attacker, stream, actor = refused
    window, place = visitor(), f"{stack.settings.dashboard_url}/tenant/{tenant}/"
    window.page.goto("/healthz")
    assert window.page.evaluate(_SOCKET, place) == "open"  # for the page that offers the sign-on
    window.add_cookies(cookies_of_attacker)
    with recorded(stack, {stream: actor, tenant: NOT_SIGNED_IN if actor == NOT_SIGNED_IN else OTHER_TENANTS_USER}):
        answer = window.page.goto(f"/tenant/{tenant}/")
    assert answer.status == 403
    assert answer.headers["cache-control"] == "no-store"
    shown = window.page.content()
    assert ORGANIZATION not in shown
    assert "stApp" not in shown
    expect(title(window.page)).to_be_visible()
    window.add_cookies(cookies_of_attacker)
    window.page.goto("/healthz")
    assert window.page.evaluate(_SOCKET, place) == "refused"


@pytest.mark.e2e
def test_an_administrator_cannot_open_another_tenants_page(stack, tenant, visitor):
    other = new_tenant(stack, "intruder", "Intruder Inc")
    window = visitor()
    page = sign_in(window, stack, other)
    with recorded(stack, {other: subject(other, ADA)}):
        answer = page.goto(f"/tenant/{tenant}/")
    assert answer.status == 403
    expect(title(page)).to_have_text("Access denied")
    assert ORGANIZATION not in page.content()
    page.get_by_role("link", name="Go to your page").click()
    page.wait_for_url(f"**/tenant/{other}/")


@pytest.mark.usefixtures("acme")
def test_a_user_who_signs_in_at_another_tenants_page_is_rejected(stack, visitor):
    tenant = new_tenant(stack, "visited")
    page = visitor().open(f"/tenant/{tenant}/")
    expect(page.get_by_test_id("stSidebarNav")).to_have_count(0)
    assert ORGANIZATION not in page.content()
    page.get_by_role("button", name=SIGN_IN).click()
    with recorded(stack, {tenant: OTHER_TENANTS_USER}):
        page.get_by_role("button", name=ADA).click()
        expect(title(page)).to_have_text("Access denied")
    assert ORGANIZATION not in page.content()


def test_a_query_with_another_tenant_is_rejected_and_clears_an_open_page(stack, tenant, other, visitor):
    page = sign_in(visitor(), stack, tenant)
    assert page.goto(f"/tenant/{tenant}/?tenant={tenant}").status == 200
    with recorded(stack, {tenant: subject(tenant, ADA)}):
        assert page.goto(f"/tenant/{tenant}/?tenant={other}").status == 403

    page = sign_in(visitor(), stack, tenant)
    page.evaluate("query => history.replaceState({}, '', query)", f"?tenant={other}")
    with recorded(stack, {tenant: subject(tenant, ADA)}):
        _rerun_until(page, "Access denied")
    expect(page.get_by_text(tenant)).to_have_count(0)


def _rerun_until(page: Page, heading: str) -> None:
    """Press Streamlit's rerun key until the heading appears, because Streamlit ignores the key while a page runs."""
    for _ in range(20):
        page.keyboard.press("r")
        with suppress(AssertionError):
            expect(title(page)).to_have_text(heading, timeout=1000)
            return
    expect(title(page)).to_have_text(heading)


def test_sign_out_ends_the_session_in_every_tab_and_for_a_copied_cookie(acme, visitor):
    window = visitor()
    first = window.sign_in(ADA, f"/tenant/{acme}/")
    second = window.context.new_page()
    second.goto(f"/tenant/{acme}/")
    expect(second.get_by_role("button", name="Sign out")).to_be_visible()
    kept = [cookie for cookie in window.context.cookies() if cookie["name"].startswith(cookies.USER)]
    first.get_by_role("button", name="Sign out").click()
    expect(title(second)).to_have_text("Your session has ended", timeout=AT_ONCE_MS)
    expect(second.get_by_text(acme)).to_have_count(0)
    expect(first.get_by_role("button", name=SIGN_IN)).to_be_visible()
    copied = visitor()
    copied.context.add_cookies(kept)
    assert copied.page.goto(f"/tenant/{acme}/").status == 403


def test_operators_and_tenant_administrators_see_only_their_own_pages(stack, tenant, visitor):
    window = visitor()
    page = window.sign_in(OLGA)
    assert page.url.endswith("/operations/")
    expect(title(page)).to_be_visible()
    links = page.get_by_test_id("stSidebarNav").get_by_role("link")
    assert set(links.all_inner_texts()) <= {"Operations"}
    expect(page.get_by_role("button", name="Connect service")).to_have_count(0)
    assert page.goto(f"/tenant/{tenant}/").status == 403
    page = sign_in(visitor(), stack, tenant)
    with recorded(stack, {tenant: subject(tenant, ADA)}):
        assert page.goto("/operations/").status == 403
