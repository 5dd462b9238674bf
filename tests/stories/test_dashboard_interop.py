"""My platform's own single sign-on lets me in: an issuer that nobody here wrote, by settings alone."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import expect

from config.secrets import OIDC_CLIENT_SECRET
from devstack.own import PythonProcess
from tests.ports import free_ports
from tests.stories import openbao_issuer
from tests.stories.browser import SIGN_IN, Visitor, drawn, title
from tests.stories.openbao_issuer import Issuer
from tests.stories.stack import ACME, Stack


class OwnDashboard(PythonProcess):
    """A dashboard beside the stack's, on the same database, with settings of its own."""

    def __init__(self, folder: Path, port: int, told: Mapping[str, str]) -> None:
        super().__init__("own-dashboard", "dashboard", folder, {"dashboard_port": port}, health="/healthz")
        self._told = told

    def environment(self) -> Mapping[str, str]:
        return {f"OPENKCM_{name.upper()}": value for name, value in self._told.items()}


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def issuer(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    started = openbao_issuer.start(tmp_path_factory.mktemp("issuer"), f"http://127.0.0.1:{port}/oauth2callback")
    started.add("grace", ACME)
    started.add("nobody", None)
    yield started
    started.server.kill()


@pytest.fixture(scope="module")
def own(stack: Stack, issuer: Issuer, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard that trusts the issuer."""
    folder = tmp_path_factory.mktemp("own")
    secrets = Path(shutil.copytree(stack.settings.secrets, folder / "secrets"))
    (secrets / OIDC_CLIENT_SECRET).write_text(issuer.client_secret, encoding="ascii")
    told = {
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
    server = OwnDashboard(folder, port, told)
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


def test_who_signs_in_at_the_issuer_lands_on_their_tenants_page(acme, window):
    page = window.open(f"/tenant/{acme}/")
    expect(page.get_by_text("Development sign-on")).to_have_count(0)
    page.get_by_role("button", name=SIGN_IN).click()
    openbao_issuer.sign_in(page, "grace")
    page.wait_for_url(re.compile(f"/tenant/{acme}/"))
    drawn(page)
    expect(title(page)).to_have_text("ACME Corporation - Encryption Dashboard")
    expect(page.get_by_text("Grace · administrator")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name=SIGN_IN)).to_be_visible()


def test_who_works_for_no_tenant_there_is_refused_here(acme, window):
    page = window.open(f"/tenant/{acme}/")
    page.get_by_role("button", name=SIGN_IN).click()
    with page.expect_response(lambda answer: answer.status == 403):
        openbao_issuer.sign_in(page, "nobody")
    expect(title(page)).to_have_text("You cannot open this page")
    expect(page.get_by_text("ACME Corporation")).to_have_count(0)


def test_the_pages_of_development_are_not_there(window):
    for path in ("/marketplace/", "/dev-sign-on/authorize"):
        assert window.page.goto(path).status == 404


def test_while_the_issuer_is_down_the_door_says_so(acme, issuer, window):
    issuer.server.kill()
    try:
        page = window.open(f"/tenant/{acme}/")
        page.get_by_role("button", name=SIGN_IN).click()
        expect(page.get_by_text("Your platform's single sign-on does not answer")).to_be_visible()
    finally:
        issuer.server.start_again()
