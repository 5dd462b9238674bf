"""Sessions of the dashboard for tenants that the development sign-on does not know."""

from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Page

from config import secrets
from config.settings import Settings
from core.tenants.roles import PersonRole
from tests.dashboard.people import cookie_of
from tests.e2e.dashboard.harness.browser import Visitor
from tests.e2e.dashboard.harness.dashboard_pages import ADA, KAI, UMA
from tests.e2e.dashboard.harness.served import ServedDashboard
from tests.e2e.stack import Stack

_ROLES = {ADA: PersonRole.ADMINISTRATOR, KAI: PersonRole.KEY_ADMINISTRATOR, UMA: PersonRole.AUDITOR}


def subject(tenant_id: str, name: str) -> str:
    """Return the address of a user in the audit stream."""
    return f"{name.split(maxsplit=1)[0].lower()}@{tenant_id}.example"


def cookie(stack: Stack, tenant_id: str, name: str = ADA, secret: str | None = None, **changed: Any) -> dict[str, str]:
    """Return the cookie of a new sign-on; `changed` replaces claims, and None removes a claim."""
    url = stack.settings.dashboard_url
    claims = _claims(stack.settings, url, tenant_id, name) | changed
    claims = {key: value for key, value in claims.items() if value is not None}
    return cookie_of(claims, secret or stack.secret(secrets.DASHBOARD_COOKIE), url)


def _claims(settings: Settings, url: str, tenant_id: str, name: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "iss": f"{url}/dev-sign-on",
        "aud": settings.oidc_client_id,
        "sub": subject(tenant_id, name),
        "name": name,
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(hours=1)).timestamp()),
        "nonce": f"story-{now.timestamp()}",
        settings.oidc_tenant_claim: tenant_id,
        settings.oidc_roles_claim: [_ROLES[name]],
    }


def sign_in_alone(window: Visitor, served: ServedDashboard, tenant_id: str, name: str = ADA) -> None:
    """Sign a window in at a dashboard without the other processes, which has the default settings of the sign-on."""
    secret = secrets.read_secret(served.folder / "secrets", secrets.DASHBOARD_COOKIE)
    claims = _claims(Settings.model_construct(), served.url, tenant_id, name)
    window.add_cookies(cookie_of(claims, secret, served.url))


def sign_in(window: Visitor, stack: Stack, tenant_id: str, name: str = ADA, page: str = "") -> Page:
    """Open a page of the tenant in a window that is signed in as one of its users."""
    window.add_cookies(cookie(stack, tenant_id, name))
    return window.open(f"/tenant/{tenant_id}/{page}")
