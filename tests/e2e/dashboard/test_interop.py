"""Users sign in to the dashboard through a standard OpenID Connect provider that only settings configure."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import expect

from config.secrets import OIDC_CLIENT_SECRET
from devstack.servers.python_process import PythonProcess
from tests.e2e.dashboard.harness import openbao_issuer
from tests.e2e.dashboard.harness.browser import SIGN_IN, Visitor, drawn, title
from tests.e2e.dashboard.harness.openbao_issuer import Issuer
from tests.e2e.stack import Stack
from tests.e2e.tenants import ORGANIZATION
from tests.ports import free_ports


class OwnDashboard(PythonProcess):
    """A second dashboard on the stack's database, with other settings."""

    def __init__(self, folder: Path, port: int, options: Mapping[str, str]) -> None:
        super().__init__("own-dashboard", "dashboard", folder, {"dashboard_port": port}, health="/healthz")
        self._options = options

    def environment(self) -> Mapping[str, str]:
        return {f"OPENKCM_{name.upper()}": value for name, value in self._options.items()}


@pytest.fixture(scope="module")
def port() -> int:
    """Return the port of the dashboard, which the issuer must know before the dashboard starts."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def issuer(tenant: str, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    started = openbao_issuer.start(tmp_path_factory.mktemp("issuer"), f"http://127.0.0.1:{port}/oauth2callback")
    started.add("grace", tenant)
    yield started
    started.server.kill()


@pytest.fixture(scope="module")
def own(stack: Stack, issuer: Issuer, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a dashboard that trusts the issuer."""
    folder = tmp_path_factory.mktemp("own")
    secrets = Path(shutil.copytree(stack.settings.secrets, folder / "secrets"))
    (secrets / OIDC_CLIENT_SECRET).write_text(issuer.client_secret, encoding="ascii")
    options = {
        "state_dir": str(folder),
        "postgres_port": str(stack.settings.postgres_port),
        "temporal_port": str(stack.settings.temporal_port),
        "dashboard_port": str(port),
        "oidc_metadata_url": issuer.address,
        "oidc_client_id": issuer.client_id,
        "oidc_scopes": f"openid {openbao_issuer.SCOPE}",
        "oidc_tenant_claim": openbao_issuer.TENANT_CLAIM,
        "oidc_roles_claim": openbao_issuer.ROLES_CLAIM,
    }
    server = OwnDashboard(folder, port, options)
    server.prepare()
    server.start()
    try:
        server.wait_ready(60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


@pytest.fixture
def window(chromium, own, issuer) -> Iterator[Visitor]:
    visitor = Visitor(chromium, own, issuer.server.url)
    yield visitor
    visitor.close()


def test_a_user_who_signs_in_at_the_issuer_sees_the_page_of_the_tenant(tenant, window):
    page = window.open(f"/tenant/{tenant}/")
    expect(page.get_by_text("Development sign-on")).to_have_count(0)
    page.get_by_role("button", name=SIGN_IN).click()
    openbao_issuer.sign_in(page, "grace")
    page.wait_for_url(re.compile(f"/tenant/{tenant}/"))
    drawn(page)
    expect(title(page)).to_have_text(f"{ORGANIZATION} - Encryption Dashboard")
    expect(page.get_by_text("Grace · administrator")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()


def test_sign_in_page_reports_that_the_issuer_is_down(tenant, issuer, window):
    issuer.server.kill()
    try:
        page = window.open(f"/tenant/{tenant}/")
        page.get_by_role("button", name=SIGN_IN).click()
        expect(page.get_by_text("your platform's single sign-on does not respond")).to_be_visible()
    finally:
        issuer.server.start_again()
