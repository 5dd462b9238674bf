"""The middleware with an application behind it that records its requests; database and authorizer are real."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from dashboard.auth.cookies import read_claims
from dashboard.auth.middleware import PLACE_HEADER, RETURN_COOKIE, SOURCE_HEADER, AuthMiddleware
from database.connection.database import Database
from tests.dashboard.people import ACME, BETA, ORIGIN, SECRET, Clock, a_guard, claims_of, cookie_of
from tests.database.builders import a_provisioned_tenant
from tests.database.fixtures import Field, Server, clone

HOME = f"/tenant/{ACME}/"
SOCKET = f"ws{ORIGIN[4:]}{HOME}_stcore/stream"
ALTERED = {"_streamlit_user": "x" + cookie_of(claims_of(Clock()))["_streamlit_user"]}


@dataclass
class Stand:
    """The middleware, a clock, and every path that passed it."""

    clock: Clock
    edge: AuthMiddleware
    reached: list[str] = field(default_factory=list)

    def browser(self, cookies: dict[str, str] | None = None) -> TestClient:
        return TestClient(self.edge, base_url=ORIGIN, cookies=cookies, follow_redirects=False)

    def signed_in(self, **changed: object) -> TestClient:
        return self.browser(cookie_of(claims_of(self.clock, **changed)))


@pytest.fixture(scope="module")
def tenants(server: Server, template: str) -> Iterator[Field]:
    """ACME and Beta in one database for all tests of this module: they assert responses, not rows."""
    with clone(server, template) as field:
        worker = field.open("worker")
        for tenant in (ACME, BETA):
            a_provisioned_tenant(worker, tenant)
        yield field


def make(
    dashboard: Database, origin: str = ORIGIN, *, develops: bool = True, secrets: tuple[str, ...] = (SECRET,)
) -> Stand:
    reached: list[str] = []

    async def respond(request: Request) -> Response:
        reached.append(request.url.path)
        place, source = (request.headers.get(name) for name in (PLACE_HEADER, SOURCE_HEADER))
        response = JSONResponse({"path": request.url.path, "place": place, "source": source})
        response.set_cookie("one", "1")
        return response

    async def talk(socket: WebSocket) -> None:
        reached.append(socket.url.path)
        await socket.accept()
        await socket.send_text(socket.headers[PLACE_HEADER])
        await socket.close()

    inner = Starlette(
        routes=[WebSocketRoute("/_stcore/stream", talk), Route("/{path:path}", respond, methods=["GET", "PUT"])]
    )
    clock = Clock()
    guard = a_guard(dashboard, clock)
    return Stand(clock, AuthMiddleware(inner, guard, secrets, origin, develops=develops), reached)


@pytest.fixture(scope="module")
def dashboard(tenants: Field) -> Database:
    return tenants.open("dashboard")


@pytest.fixture
def stand(dashboard: Database) -> Stand:
    return make(dashboard)


def test_a_page_of_the_own_tenant_is_served_with_a_place_that_the_browser_cannot_set(stand: Stand) -> None:
    claimed = {PLACE_HEADER: f"/tenant/{BETA}", SOURCE_HEADER: "192.0.2.1"}
    for inner, headers in (("keys", {}), ("", claimed)):
        answer = stand.signed_in().get(f"{HOME}{inner}", headers=headers)
        assert answer.json() == {"path": f"/{inner}", "place": f"/tenant/{ACME}", "source": "testclient"}
        assert answer.headers["cache-control"] == "no-store"


PATHS = (
    "",
    "keys",
    "media/0123abcd.csv",
    "_stcore/upload_file/s/f",
    "_stcore/anything",
    "auth/login",
    "healthz",
    "readyz",
)
FOREIGN = cookie_of({"sub": "ada"}, secret="x" * 40)


@pytest.mark.parametrize(
    "changed",
    [
        {"openkcm_tenant": BETA},
        {"openkcm_tenant": None},
        {"openkcm_roles": ["operator"], "openkcm_tenant": None},
        {"openkcm_roles": []},
        {"exp": 1},
        {"iat": 1},
    ],
)
def test_a_session_without_access_gets_403_and_reaches_nothing(stand: Stand, changed: dict[str, object]) -> None:
    for inner in PATHS if changed == {"openkcm_tenant": BETA} else PATHS[:1]:
        answer = stand.signed_in(**changed).get(f"{HOME}{inner}")
        assert answer.status_code == 403
        assert ACME not in answer.text
    assert stand.reached == []


def test_a_forged_cookie_gets_403_and_is_removed(stand: Stand) -> None:
    for inner, cookie in (*((inner, ALTERED) for inner in PATHS), ("", {"_streamlit_user": "forged"}), ("", FOREIGN)):
        answer = stand.browser(cookie).get(f"{HOME}{inner}")
        assert answer.status_code == 403
        assert any(line.startswith('_streamlit_user=""') for line in answer.headers.get_list("set-cookie"))
    assert stand.reached == []


def test_sessions_survive_a_replacement_of_the_cookie_secret(dashboard: Database) -> None:
    former, new = SECRET, f"new {SECRET}"
    seen: list[dict[str, str]] = []

    async def note(request: Request) -> Response:
        seen.append(request.cookies)
        return Response()

    def admits(secrets: tuple[str, ...], signed_with: str) -> bool:
        """Return whether an instance admits a session, and compare the cookies that Streamlit gets."""
        stand = make(dashboard, secrets=secrets)
        edge = replace(stand.edge, app=Starlette(routes=[Route("/{path:path}", note)]))
        sent = {"other": '"a b"'} | cookie_of(claims_of(stand.clock), secret=signed_with)
        answer = TestClient(edge, base_url=ORIGIN, cookies=sent).get(f"{HOME}keys")
        if answer.status_code != 200:
            return False
        received = seen.pop()
        assert received["other"] == "a b"
        claims = read_claims(received, secrets[0], ORIGIN)  # as Streamlit does, with its one secret
        assert claims is not None
        assert claims["sub"] == "ada"
        return True

    before, meanwhile, after = (former,), (new, former), (new,)
    accepted = {
        (secrets, signed): admits(secrets, signed) for secrets in (before, meanwhile, after) for signed in (former, new)
    }
    assert accepted == {
        (before, former): True,
        (before, new): False,
        (meanwhile, former): True,
        (meanwhile, new): True,
        (after, former): False,
        (after, new): True,
    }
    assert not admits(meanwhile, "another secret of more than thirty-two letters")
    assert seen == []


def test_a_tampered_query_gets_403(stand: Stand) -> None:
    assert stand.signed_in().get(f"{HOME}?tenant={BETA}").status_code == 403
    assert stand.signed_in().get(f"{HOME}?tenant={ACME}").status_code == 200


def test_a_socket_is_refused_before_it_is_accepted(stand: Stand) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        stand.signed_in(openkcm_tenant=BETA).websocket_connect(SOCKET),
    ):
        pass
    assert stand.reached == []
    with stand.signed_in().websocket_connect(SOCKET) as socket:
        assert socket.receive_text() == f"/tenant/{ACME}"


def test_without_a_session_the_sign_in_page_leads_back_and_nothing_is_downloaded(stand: Stand) -> None:
    browser = stand.browser()
    for inner in ("media/0123abcd.csv", "_stcore/upload_file/s/f"):
        assert browser.get(f"{HOME}{inner}").status_code == 403
    assert stand.reached == []
    answer = browser.get(HOME)
    assert answer.status_code == 200
    assert browser.cookies[RETURN_COOKIE].strip('"') == f"/tenant/{ACME}"
    browser.cookies.update(cookie_of(claims_of(stand.clock)))
    assert browser.get("/").headers["location"] == HOME


@pytest.mark.parametrize(
    ("changed", "home"),
    [
        ({}, HOME),
        ({"openkcm_roles": ["operator"], "openkcm_tenant": None}, "/operations/"),
        ({"openkcm_tenant": None}, "/operations/"),
    ],
)
def test_the_root_path_redirects_to_the_users_route(stand: Stand, changed: dict[str, object], home: str) -> None:
    assert stand.signed_in(**changed).get("/").headers["location"] == home
    assert stand.browser().get("/").headers["location"] == "/sign-in/"
    assert stand.browser(ALTERED).get("/").headers["location"] == "/sign-in/"


@pytest.mark.parametrize("back", ["https://elsewhere.example/", "//elsewhere.example", "/tenant/x", "/auth/logout"])
def test_a_foreign_return_target_is_ignored(stand: Stand, back: str) -> None:
    browser = stand.signed_in()
    browser.cookies[RETURN_COOKIE] = back
    assert browser.get("/").headers["location"] == HOME


@pytest.mark.parametrize(
    "path", ["/_stcore/stream", "/_stcore/health", "/keys", "/static/x.js", "/tenant/AC/", "/media/x"]
)
def test_a_path_outside_the_routes_is_not_found(stand: Stand, path: str) -> None:
    assert stand.signed_in().get(path).status_code == 404
    with pytest.raises(WebSocketDisconnect), stand.signed_in().websocket_connect(f"ws{ORIGIN[4:]}{path}"):
        pass
    assert stand.reached == []


def test_a_route_without_a_trailing_slash_redirects(stand: Stand) -> None:
    answer = stand.signed_in().get(f"/tenant/{ACME}?period=7d")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{HOME}?period=7d")


def test_static_files_need_no_session(stand: Stand) -> None:
    assert stand.browser().get(f"{HOME}static/index.js").json()["path"] == "/static/index.js"


@pytest.mark.parametrize("path", ["/marketplace/", "/dev-sign-on/authorize", "/dev-sign-on/_stcore/health"])
def test_the_marketplace_and_its_sign_on_exist_only_in_development(dashboard: Database, path: str) -> None:
    product = make(dashboard, develops=False)
    assert product.browser().get(path).status_code == 404
    assert product.reached == []


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1:9", "localhost:18501", ""])
def test_in_development_another_host_name_is_not_found(stand: Stand, host: str) -> None:
    assert stand.signed_in().get(HOME, headers={"host": host}).status_code == 404
    assert stand.signed_in().get("/dev-sign-on/authorize", headers={"host": host}).status_code == 404
    assert stand.reached == []


def test_over_tls_every_cookie_is_marked_secure(dashboard: Database) -> None:
    secure = make(dashboard, "https://cmk.example", develops=False)
    with TestClient(secure.edge, base_url="https://cmk.example") as browser:
        answer = browser.get("/sign-in/")
    assert "Secure" in answer.headers["set-cookie"]


def test_without_a_database_access_is_denied(field: Field) -> None:
    stand = make(field.open("dashboard", min_size=0))
    with field.server.offline(field.name):
        answer = stand.signed_in().get(HOME)
    assert answer.status_code == 503
    assert stand.reached == []
