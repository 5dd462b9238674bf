"""Nobody sees another tenant's page: in a real browser, with cookies that only a thief or a forger would have."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import expect

from config import secrets
from dashboard import cookies
from dashboard.guard import NOBODY, STRANGER
from tenancy.audit import AuditName
from tenancy.people import OPERATORS
from tests.dashboard.people import cookie_of
from tests.stories.browser import SIGN_IN, title
from tests.stories.dashboard_pages import ADA, BEA, OLGA
from tests.stories.stack import ACME, Stack, wait_until

BETA = "beta-corp-67890"
AT_ONCE_MS = 20_000

# Tells whether the socket of a place opens for the cookies of this window; `where` is the page's address.
_SOCKET = """
where => new Promise(told => {
    const socket = new WebSocket(where.replace(/^http/, "ws") + "_stcore/stream", ["streamlit"]);
    socket.onopen = () => told("open");
    socket.onerror = () => told("refused");
})
"""


def claims(stack: Stack, **changed: Any) -> dict[str, Any]:
    """Return what the sign-on says of ACME's administrator just now; None takes a claim away."""
    now = datetime.now(UTC)
    whole = {
        "iss": f"{stack.settings.dashboard_url}/dev-sign-on",
        "aud": stack.settings.oidc_client_id,
        "sub": "ada@acme.example",
        "name": ADA,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=1)).timestamp()),
        "nonce": f"story-{now.timestamp()}",
        stack.settings.oidc_tenant_claim: ACME,
        stack.settings.oidc_roles_claim: ["administrator"],
    }
    return {name: value for name, value in (whole | changed).items() if value is not None}


def signed(stack: Stack, **changed: Any) -> dict[str, str]:
    """Return a cookie as this very server signs it."""
    return cookie_of(claims(stack, **changed), stack.secret(secrets.DASHBOARD_COOKIE), stack.settings.dashboard_url)


def long_ago(stack: Stack) -> dict[str, str]:
    before = datetime.now(UTC) - timedelta(hours=2)
    return signed(stack, iat=int(before.timestamp()), exp=int((before + timedelta(hours=1)).timestamp()))


def forged(stack: Stack) -> dict[str, str]:
    return cookie_of(claims(stack), "a secret that a forger has guessed: " + "x" * 32, stack.settings.dashboard_url)


def altered(stack: Stack) -> dict[str, str]:
    value = signed(stack)[cookies.USER]
    place = len(value) // 2
    return {cookies.USER: value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]}


def of_nobodys_tenant(stack: Stack) -> dict[str, str]:
    return signed(stack, **{stack.settings.oidc_tenant_claim: None})


def of_beta(stack: Stack) -> dict[str, str]:
    return signed(stack, sub="bea@beta.example", name=BEA, **{stack.settings.oidc_tenant_claim: BETA})


def of_a_role_unknown(stack: Stack) -> dict[str, str]:
    return signed(stack, **{stack.settings.oidc_roles_claim: ["everything"]})


def of_an_operator(stack: Stack) -> dict[str, str]:
    changed = {stack.settings.oidc_tenant_claim: None, stack.settings.oidc_roles_claim: ["operator"]}
    return signed(stack, sub="olga@platform.example", name=OLGA, **changed)


@contextmanager
def told(stack: Stack, expected: dict[str, str]) -> Iterator[None]:
    """Expect, in the streams named, a new record of a refusal with the actor named."""
    before = {tenant_id: _last(stack, tenant_id) for tenant_id in expected}
    yield

    def found() -> dict[str, set[str]]:
        return {tenant_id: _refused(stack, tenant_id, after) for tenant_id, after in before.items()}

    wait_until(
        lambda: all(actor in found()[tenant_id] for tenant_id, actor in expected.items()),
        lambda: f"the streams hold {found()}, not {expected}",
        seconds=10,
    )


def _last(stack: Stack, tenant_id: str) -> int:
    with stack.database().tenant_tx(tenant_id) as tx:
        head = tx.audit.head()
    return 0 if head is None else head.seq


def _refused(stack: Stack, tenant_id: str, after: int) -> set[str]:
    with stack.database().tenant_tx(tenant_id) as tx:
        records = [json.loads(stored.record) for stored in tx.audit.records(after=after)]
    return {one["actor"] for one in records if one["name"] == AuditName.ACCESS_REFUSED and one["outcome"] == "refused"}


CASES = [
    pytest.param(of_beta, {BETA: "bea@beta.example", ACME: STRANGER}, id="another tenant's administrator"),
    pytest.param(of_an_operator, {OPERATORS: "olga@platform.example", ACME: STRANGER}, id="an operator"),
    pytest.param(long_ago, {OPERATORS: NOBODY, ACME: NOBODY}, id="a session that expired"),
    pytest.param(forged, {OPERATORS: NOBODY, ACME: NOBODY}, id="a forged cookie"),
    pytest.param(of_nobodys_tenant, {OPERATORS: NOBODY, ACME: NOBODY}, id="nobody's tenant"),
    pytest.param(of_a_role_unknown, {OPERATORS: NOBODY, ACME: NOBODY}, id="a role that is unknown"),
]


@pytest.mark.parametrize(("cookie", "records"), CASES)
def test_who_may_not_gets_403_and_nothing_of_the_page_and_is_on_record(stack, acme, visitor, cookie, records):
    window = visitor()
    window.carry(cookie(stack))
    with told(stack, records):
        answer = window.page.goto(f"/tenant/{acme}/")
    assert answer.status == 403
    assert answer.headers["cache-control"] == "no-store"
    shown = window.page.content()
    assert "ACME Corporation" not in shown
    assert "stApp" not in shown
    expect(title(window.page)).to_be_visible()


@pytest.mark.parametrize("cookie", [long_ago, forged, altered, of_nobodys_tenant, of_beta, of_an_operator])
def test_the_socket_behind_a_page_is_refused_as_the_page_is(stack, acme, visitor, cookie):
    window, place = visitor(), f"{stack.settings.dashboard_url}/tenant/{acme}/"
    window.page.goto("/healthz")
    assert window.page.evaluate(_SOCKET, place) == "open"  # the door, for whoever has not signed in
    window.carry(cookie(stack))
    assert window.page.evaluate(_SOCKET, place) == "refused"


def test_betas_administrator_who_signed_in_does_not_get_into_acmes_page(stack, acme, visitor):
    window = visitor()
    window.sign_in(BEA, f"/tenant/{BETA}/")
    with told(stack, {BETA: "bea@beta.example", ACME: STRANGER}):
        answer = window.page.goto(f"/tenant/{acme}/")
    assert answer.status == 403
    expect(title(window.page)).to_have_text("You cannot open this page")
    window.page.get_by_role("link", name="Go to your own page").click()
    window.page.wait_for_url(f"**/tenant/{BETA}/")


@pytest.mark.parametrize("path", ["", "keys", "audit"])
def test_before_the_door_there_is_no_menu_and_the_sign_on_is_offered_at_every_page(acme, visitor, path):
    page = visitor().open(f"/tenant/{acme}/{path}")
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()
    expect(page.get_by_test_id("stSidebarNav")).to_have_count(0)
    expect(page.get_by_text("Page not found")).to_have_count(0)


def test_who_signs_in_at_another_tenants_door_is_turned_away_there(stack, acme, visitor):
    window = visitor()
    window.open(f"/tenant/{acme}/")
    assert "ACME Corporation" not in window.page.content()
    window.page.get_by_role("button", name=SIGN_IN).click()
    with told(stack, {BETA: "bea@beta.example", ACME: STRANGER}):
        window.page.get_by_role("button", name=BEA).click()
        expect(title(window.page)).to_have_text("You cannot open this page")


def test_a_query_that_speaks_of_another_tenant_is_refused(stack, acme, visitor):
    window = visitor()
    window.sign_in(ADA, f"/tenant/{acme}/")
    with told(stack, {ACME: "ada@acme.example"}):
        answer = window.page.goto(f"/tenant/{acme}/?tenant={BETA}")
    assert answer.status == 403
    assert window.page.goto(f"/tenant/{acme}/?tenant={acme}").status == 200


def test_a_query_that_is_changed_under_an_open_page_empties_it(stack, acme, visitor):
    window = visitor()
    page = window.sign_in(ADA, f"/tenant/{acme}/")
    page.evaluate("query => history.replaceState({}, '', query)", f"?tenant={BETA}")
    with told(stack, {ACME: "ada@acme.example"}):
        _rerun_until(page, "403 · You cannot open this page")
    expect(page.get_by_text(acme)).to_have_count(0)


def _rerun_until(page, heading) -> None:
    """Ask Streamlit to run the page anew by its key for that, until it does: while it runs one it does not listen."""
    for _ in range(20):
        page.keyboard.press("r")
        with suppress(AssertionError):
            expect(title(page)).to_have_text(heading, timeout=1000)
            return
    expect(title(page)).to_have_text(heading)


def test_signing_out_in_one_tab_ends_the_other_within_seconds(acme, visitor):
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
    thief = visitor()
    thief.context.add_cookies(kept)
    assert thief.page.goto(f"/tenant/{acme}/").status == 403


def test_an_operator_has_a_desk_and_no_tenants_page(acme, visitor):
    window = visitor()
    page = window.sign_in(OLGA)
    assert page.url.endswith("/operations/")
    expect(title(page)).to_be_visible()
    assert window.page.goto(f"/tenant/{acme}/").status == 403


def test_a_tenants_administrator_has_no_place_at_the_operators_desk(stack, acme, visitor):
    window = visitor()
    window.sign_in(ADA, f"/tenant/{acme}/")
    with told(stack, {ACME: "ada@acme.example"}):
        assert window.page.goto("/operations/").status == 403
