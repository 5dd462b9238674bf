"""A whole installation gets new secrets while a user is signed in and the peers still have the former ones."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect
from standardwebhooks import Webhook, WebhookVerificationError

from config import secrets
from tests.e2e.dashboard.harness.browser import SIGN_IN, Visitor, drawn, title
from tests.e2e.dashboard.harness.sign_ons import cookie, sign_in
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION, new_tenant


@pytest.fixture
def replaced(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "replaced")
    stack.command("up")
    yield stack
    stack.command("down")
    stack.close()


def restart(stack: Stack) -> None:
    stack.command("down")
    stack.command("up")


def status(stack: Stack, tenant: str, token: str) -> int:
    url = f"{stack.settings.marketplace_url}/v1/tenants/{tenant}"
    return httpx2.get(url, headers={"authorization": f"Bearer {token}"}, timeout=10).status_code


def is_signed(stack: Stack, tenant: str, secret: str) -> bool:
    """Return whether a receiver with this secret accepts the ready message of a tenant."""
    [message] = stack.callback.about(tenant, "ready")
    try:
        Webhook(secret).verify(message.body, message.headers)
    except WebhookVerificationError:
        return False
    return True


def test_peers_and_users_continue_with_former_secrets_until_these_are_removed(
    replaced: Stack, chromium: Browser
) -> None:
    stack = replaced
    names = (secrets.MARKETPLACE_TOKEN, secrets.CALLBACK_SECRET, secrets.DASHBOARD_COOKIE)
    former = {name: stack.secret(name) for name in names}
    tenant = new_tenant(stack, "before")
    stack.wait_announced(tenant)
    with closing(Visitor(chromium, stack.settings.dashboard_url)) as window:
        page = sign_in(window, stack, tenant)
        expect(title(page)).to_contain_text(ORGANIZATION)

        assert set(stack.command("setup", "secrets", "--add")["changed"]) > set(names)
        restart(stack)
        new = {name: stack.secret(name) for name in names}
        page.reload()
        drawn(page)
        expect(title(page)).to_contain_text(ORGANIZATION)
        assert [status(stack, tenant, one[secrets.MARKETPLACE_TOKEN]) for one in (former, new)] == [200, 200]
        within = new_tenant(stack, "within")
        stack.wait_announced(within)
        assert [is_signed(stack, within, one[secrets.CALLBACK_SECRET]) for one in (former, new)] == [True, True]

        stack.command("setup", "secrets", "--replace")
        restart(stack)
        assert [status(stack, tenant, one[secrets.MARKETPLACE_TOKEN]) for one in (former, new)] == [401, 200]
        after = new_tenant(stack, "after")
        stack.wait_announced(after)
        assert [is_signed(stack, after, one[secrets.CALLBACK_SECRET]) for one in (former, new)] == [False, True]
        answer = page.reload()
        assert answer is not None
        assert answer.status == 403
        page.reload()  # the first answer has deleted the cookie
        expect(page.get_by_text(SIGN_IN)).to_be_visible()
    forged = cookie(stack, tenant, secret=former[secrets.DASHBOARD_COOKIE])
    answer = httpx2.get(f"{stack.settings.dashboard_url}/tenant/{tenant}/", cookies=forged, timeout=30)
    assert answer.status_code == 403
