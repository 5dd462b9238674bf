"""Streamlit's static files are served unchanged, compressed where the browser accepts it, and nothing else is.

The document of a page is Streamlit's with the root of its route.
"""

from pathlib import Path

import pytest
import streamlit
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from dashboard.auth.middleware import PLACE_HEADER
from dashboard.static_files import StaticFiles

NAMES = StaticFiles(PlainTextResponse("the application")).names
INDEX = Path(streamlit.__file__).parent / "static" / "index.html"
ALL_KINDS = sorted({path.suffix: name for name, path in NAMES.items()}.items())


@pytest.fixture
def browser() -> TestClient:
    return TestClient(StaticFiles(PlainTextResponse("the application")))


@pytest.mark.parametrize("accepted", ["gzip, deflate, br", "identity", "br"])
@pytest.mark.parametrize(("kind", "name"), ALL_KINDS)
def test_a_file_is_unchanged_and_kept_by_the_browser(browser: TestClient, accepted: str, kind: str, name: str) -> None:
    found = browser.get(name, headers={"accept-encoding": accepted})
    assert found.content == NAMES[name].read_bytes()
    assert found.headers["cache-control"] == "public, immutable, max-age=31536000"
    compressed = accepted.startswith("gzip") and kind in {".js", ".css", ".svg"}
    assert found.headers.get("content-encoding") == ("gzip" if compressed else None)
    assert int(found.headers["content-length"]) <= NAMES[name].stat().st_size


@pytest.mark.parametrize("path", ["/", "/keys", "/audit"])
def test_the_document_of_a_page_names_the_root_of_its_route_before_its_script(browser: TestClient, path: str) -> None:
    found = browser.get(path, headers={PLACE_HEADER: "/tenant/acme-corp"})
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    begin, end = found.text.index("<script>\n      window.__streamlit"), found.text.index('<script type="module"')
    assert 'window.__streamlit = {BACKEND_BASE_URL: location.origin + "/tenant/acme-corp"};' in found.text[begin:end]
    assert found.text[:begin] + found.text[end:] == INDEX.read_text()


@pytest.mark.parametrize("path", ["/unknown", "/keys/", "/keys/_stcore/health"])
def test_another_path_of_a_route_has_no_document(browser: TestClient, path: str) -> None:
    assert browser.get(path, headers={PLACE_HEADER: "/tenant/acme-corp"}).text == "the application"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/keys",
        "/index.html",
        "/static/",
        "/static/js/",
        "/static/js/../../index.html",
        "/static/%2e%2e/index.html",
    ],
)
def test_every_other_path_is_a_request_for_the_application(browser: TestClient, path: str) -> None:
    assert browser.get(path).text == "the application"


def test_a_file_is_only_read(browser: TestClient) -> None:
    assert browser.post(next(iter(NAMES))).text == "the application"
