"""The development sign-on, used by the client that Streamlit uses, and by invalid requests."""

import base64
import hashlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from httpx2 import Response
from joserfc import jwt
from joserfc.jwk import KeySet
from starlette.applications import Starlette
from starlette.testclient import TestClient

from config.secrets import ensure_secrets
from config.settings import Settings
from core.errors.platform import SettingsInvalid
from dashboard import wiring
from dashboard.auth.claims import read
from devstack.dashboard import develop
from devstack.oidc_provider import PEOPLE, OidcProvider
from tests.dashboard.conftest import clock
from tests.dashboard.people import NAMES, ORIGIN, Clock

__all__ = ["clock"]  # a fixture that pytest finds here by its name

PATH = "/dev-sign-on"
REDIRECT_URI = f"{ORIGIN}/oauth2callback"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
QUERY = {
    "response_type": "code",
    "client_id": "dashboard",
    "redirect_uri": REDIRECT_URI,
    "scope": "openid",
    "state": "s-1",
    "nonce": "n-1",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}


@pytest.fixture
def browser(clock: Clock) -> TestClient:
    sign_on = OidcProvider(f"{ORIGIN}{PATH}", "dashboard", "secret", REDIRECT_URI, NAMES, clock)
    return TestClient(Starlette(routes=list(sign_on.routes(PATH))), base_url=ORIGIN, follow_redirects=False)


def code_for(browser: TestClient, subject: str, **changed: str) -> str:
    answer = browser.post(f"{PATH}/authorize", params=QUERY | changed, data={"subject": subject})
    assert answer.status_code == 303
    returned = parse_qs(urlsplit(answer.headers["location"]).query)
    assert returned["state"] == ["s-1"]
    return returned["code"][0]


def exchange(browser: TestClient, code: str, **changed: str) -> Response:
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER}
    return browser.post(f"{PATH}/token", data=form | changed, auth=("dashboard", changed.get("secret", "secret")))


@pytest.mark.parametrize("user", PEOPLE, ids=lambda user: user.subject)
def test_every_user_gets_a_token_that_the_dashboard_accepts(browser: TestClient, clock: Clock, user) -> None:
    token = exchange(browser, code_for(browser, user.subject)).json()["id_token"]
    published = browser.get(f"{PATH}/keys").json()
    assert not {"d", "p", "q", "dp", "dq", "qi"} & published["keys"][0].keys()
    keys = KeySet.import_key_set(published)
    claims = jwt.decode(token, keys, algorithms=["RS256"]).claims
    assert (claims["aud"], claims["nonce"], claims["iss"]) == ("dashboard", "n-1", f"{ORIGIN}{PATH}")
    person = read(claims, NAMES, clock()).person
    assert (person.subject, person.name) == (user.subject, user.name)
    assert person.is_operator == (user.tenant_id is None)
    assert person.roles == {user.role}


@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://elsewhere.example/oauth2callback"},
        {"redirect_uri": f"{REDIRECT_URI}/more"},
        {"client_id": "another"},
        {"response_type": "token"},
        {"code_challenge_method": "plain"},
    ],
)
def test_invalid_request_or_unknown_user_is_rejected(browser: TestClient, changed: dict[str, str]) -> None:
    answer = browser.post(f"{PATH}/authorize", params=QUERY | changed, data={"subject": PEOPLE[0].subject})
    assert answer.status_code == 400
    assert "location" not in answer.headers
    unknown = browser.post(f"{PATH}/authorize", params=QUERY, data={"subject": "mallory@evil.example"})
    assert unknown.status_code == 400
    page = browser.get(f"{PATH}/authorize", params=QUERY).text
    assert all(words in page for words in ("Development sign-on.", *(person.name for person in PEOPLE)))


def test_code_is_exchanged_once_within_a_minute_by_its_client(browser: TestClient, clock: Clock) -> None:
    for changed, error in (
        ({"code_verifier": "w" * 43}, "invalid_grant"),
        ({"redirect_uri": f"{REDIRECT_URI}/more"}, "invalid_grant"),
        ({"secret": "guessed"}, "invalid_client"),
    ):
        assert exchange(browser, code_for(browser, PEOPLE[0].subject), **changed).json() == {"error": error}
    code, late = (code_for(browser, PEOPLE[0].subject) for _ in range(2))
    assert exchange(browser, code).status_code == 200
    assert exchange(browser, code).json() == {"error": "invalid_grant"}
    clock.advance(seconds=61)
    assert exchange(browser, late).json() == {"error": "invalid_grant"}


@pytest.mark.parametrize(
    "changed",
    [
        {"dashboard_host": "0.0.0.0"},  # noqa: S104 - the case
        {"dashboard_host": "10.0.0.7"},
        {"base_url": "https://cmk.openkcm.io"},
        {"base_url": "http://127.0.0.1.elsewhere.example"},
        {"base_url": "http://user@10.0.0.7"},
    ],
)
def test_provider_on_a_reachable_dashboard_is_rejected(tmp_path, changed: dict[str, str]) -> None:
    settings = Settings(state_dir=tmp_path, **changed)
    ensure_secrets(settings.secrets)
    with pytest.raises(SettingsInvalid, match="loopback only"):
        wiring.build(settings, develop)
    built = wiring.build(Settings(state_dir=tmp_path, oidc_metadata_url="https://sso.example/", **changed))
    assert not built.develops


def test_dashboard_without_single_sign_on_is_rejected_outside_of_development(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    ensure_secrets(settings.secrets)
    with pytest.raises(SettingsInvalid, match="no single sign-on is configured"):
        wiring.build(settings)
    assert wiring.build(settings, develop).develops
