"""The middleware with an application behind it that records its requests; database and authorizer are real."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from core.errors.platform import DatabaseUnavailable
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
    return Stand(
        clock,
        AuthMiddleware(inner, guard, secrets, origin, develops=develops, files=frozenset({"/audit.jsonl"})),
        reached,
    )


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
    "audit.jsonl",
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


def test_without_a_session_nothing_is_downloaded(stand: Stand) -> None:
    browser = stand.browser()
    for inner in ("media/0123abcd.csv", "_stcore/upload_file/s/f"):
        assert browser.get(f"{HOME}{inner}").status_code == 403
    assert stand.reached == []
    assert browser.get(HOME).status_code == 200


def sign_in_from(stand: Stand, left: str | None, **changed: object) -> str:
    """Start to sign in at an address, as a browser reports it, and return where the user arrives."""
    browser = stand.browser()
    browser.get("/auth/login?provider=token", headers={} if left is None else {"referer": left})
    browser.cookies.update(cookie_of(claims_of(stand.clock, **changed)))
    location = str(browser.get("/").headers["location"])
    assert RETURN_COOKIE not in browser.cookies
    return location


@pytest.mark.parametrize("page", ["", "keys", "usage?period=7d&bars=Service", "audit?find=a+b%2Fc&from=2026-11-01"])
def test_a_sign_in_leads_back_to_the_page_and_query_that_the_user_left(stand: Stand, page: str) -> None:
    for roles in (["administrator"], ["auditor"]):
        assert sign_in_from(stand, f"{ORIGIN}{HOME}{page}", openkcm_roles=roles) == f"{HOME}{page}"


def test_an_operator_returns_to_the_operations_page(stand: Stand) -> None:
    operator = {"openkcm_roles": ["operator"], "openkcm_tenant": None}
    assert sign_in_from(stand, f"{ORIGIN}/operations/?id={ACME}", **operator) == f"/operations/?id={ACME}"


def test_signing_out_leads_to_the_sign_in_at_the_same_page_and_back(stand: Stand) -> None:
    browser, page = stand.browser(), f"{HOME}usage?bars=Service"
    browser.get("/auth/logout", headers={"referer": f"{ORIGIN}{page}"})
    assert browser.get("/").headers["location"] == page
    assert sign_in_from(stand, f"{ORIGIN}{page}") == page


@pytest.mark.parametrize("pages", [0, 1])
def test_signing_out_ends_the_session_of_a_copied_cookie(stand: Stand, pages: int) -> None:
    user = {"nonce": f"signs out after {pages} pages"}
    browser, copied = stand.signed_in(**user), stand.signed_in(**user)
    for _ in range(pages):
        assert copied.get(HOME).status_code == 200
    assert browser.get("/auth/logout").status_code == 200
    refused = copied.get(HOME)
    assert (refused.status_code, "session" in refused.text) == (403, True)
    for forged in (ALTERED, FOREIGN):
        assert stand.browser(forged).get("/auth/logout").status_code == 200


def test_a_user_signs_out_while_the_database_is_unavailable(stand: Stand) -> None:
    def unavailable() -> None:
        raise DatabaseUnavailable

    stand.edge = replace(stand.edge, guard=replace(stand.edge.guard, require_database=unavailable))
    assert stand.signed_in().get("/auth/logout").status_code == 200


ATTACKS = (
    None,
    "",
    "https://elsewhere.example/",
    f"https://elsewhere.example{HOME}keys",
    f"{ORIGIN}.elsewhere.example{HOME}keys",
    f"{ORIGIN}@elsewhere.example{HOME}keys",
    f"{ORIGIN}//elsewhere.example/",
    f"{ORIGIN}/{HOME}keys",
    f"{ORIGIN}/\\elsewhere.example",
    f"{ORIGIN}/auth/logout",
    f"{ORIGIN}/sign-in/",
    f"{ORIGIN}/marketplace/",
    f"{ORIGIN}/tenant/x",
    f"{ORIGIN}{HOME[:-1]}",
    f"{ORIGIN}{HOME}unknown",
    f"{ORIGIN}{HOME}keys/",
    f"{ORIGIN}{HOME}media/x.csv",
    f"{ORIGIN}{HOME}..%2f..%2fauth%2flogout",
    f"{ORIGIN}{HOME}../../operations/",
    f"{ORIGIN}/tenant%2f{ACME}/keys",
    f"{ORIGIN}{HOME}keys?a={'a' * 1000}",
    f"{ORIGIN}{HOME}keys\t",
    f"{ORIGIN}{HOME}k\x7feys",
)


@pytest.mark.parametrize("left", ATTACKS)
def test_a_sign_in_leads_home_from_anything_but_a_page(stand: Stand, left: str | None) -> None:
    assert sign_in_from(stand, left) == HOME


@pytest.mark.parametrize(
    "query",
    [
        f"tenant={BETA}",
        "a=%0d%0aset-cookie:x",
        "a=%00",
        "a=%ff",
        "a=%e2%80%8b",
        "<script>=1",
        "&".join(f"a{n}=1" for n in range(51)),
    ],
)
def test_an_unusual_query_is_dropped(stand: Stand, query: str) -> None:
    assert sign_in_from(stand, f"{ORIGIN}{HOME}keys?{query}") == f"{HOME}keys"


def test_the_return_cookie_selects_no_page_of_another_tenant(stand: Stand) -> None:
    other = f"/tenant/{BETA}/"
    assert sign_in_from(stand, f"{ORIGIN}{other}keys?service=ledger") == other
    assert stand.signed_in().get(other).status_code == 403
    operator = {"openkcm_roles": ["operator"], "openkcm_tenant": None}
    assert sign_in_from(stand, f"{ORIGIN}{other}keys", **operator) == other
    assert sign_in_from(stand, f"{ORIGIN}/operations/?id={BETA}") == "/operations/"
    assert stand.reached == ["/auth/login"] * 3


def test_a_new_sign_in_forgets_the_page_of_an_abandoned_one(stand: Stand) -> None:
    browser = stand.browser()
    browser.get("/auth/login", headers={"referer": f"{ORIGIN}{HOME}keys"})
    assert RETURN_COOKIE in browser.cookies
    browser.get("/auth/login", headers={"referer": f"{ORIGIN}/sign-in/"})
    assert RETURN_COOKIE not in browser.cookies


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


@pytest.mark.parametrize("back", [*filter(None, ATTACKS), HOME, f"{HOME}keys?tenant=x", "%2F%2Felsewhere.example%2F"])
def test_a_forged_return_cookie_leads_to_a_page_of_this_server_or_home(stand: Stand, back: str) -> None:
    browser = stand.browser(cookie_of(claims_of(stand.clock)) | {RETURN_COOKIE: quote(back.removeprefix(ORIGIN), "")})
    expected = f"{HOME}keys" if back.startswith(f"{HOME}keys") else HOME
    assert browser.get("/").headers["location"] == expected


@pytest.mark.parametrize(
    "path", ["/_stcore/stream", "/_stcore/health", "/keys", "/static/x.js", "/tenant/AC/", "/media/x"]
)
def test_a_path_outside_the_routes_is_not_found(stand: Stand, path: str) -> None:
    assert stand.signed_in().get(path).status_code == 404
    with pytest.raises(WebSocketDisconnect), stand.signed_in().websocket_connect(f"ws{ORIGIN[4:]}{path}"):
        pass
    assert stand.reached == []


@pytest.mark.parametrize("inner", ["unknown", "keys/unknown", "key", "auth/login", "healthz", "readyz", "keys%2F.."])
def test_an_unknown_page_of_a_route_is_not_found_before_streamlit(stand: Stand, inner: str) -> None:
    for browser in (stand.signed_in(), stand.browser()):
        answer = browser.get(f"{HOME}{inner}")
        assert answer.status_code == 404
        assert "Page not found" in answer.text
        assert ACME not in answer.text
        assert browser.get("/operations/unknown").status_code == 404
        assert browser.get("/sign-in/unknown").status_code == 404
    assert stand.reached == []


def test_a_route_without_a_trailing_slash_redirects(stand: Stand) -> None:
    answer = stand.signed_in().get(f"/tenant/{ACME}?period=7d")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{HOME}?period=7d")


def test_a_page_with_a_trailing_slash_redirects_to_the_page(stand: Stand) -> None:
    answer = stand.signed_in().get(f"{HOME}keys/?service=ledger")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{HOME}keys?service=ledger")


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
        customer = stand.signed_in().get(HOME)
        operator = stand.signed_in(openkcm_roles=["operator"], openkcm_tenant=None).get("/operations/")
    for answer in (customer, operator):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert "Page unavailable" in answer.text
        assert '<a href="">Retry</a>' in answer.text
    assert "PostgreSQL" in operator.text
    assert "PostgreSQL" not in customer.text
    assert stand.reached == []
