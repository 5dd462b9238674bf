from collections.abc import Iterator
from functools import cache
from unittest import mock

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.state.query_params import QueryParams

from database.connection.database import Database
from tests.dashboard.people import Clock
from tests.dashboard.scene import Scene
from tests.database.fixtures import Field


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scene(field: Field) -> Scene:
    return Scene(field)


@pytest.fixture
def sent_queries(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The queries that were sent to the browser."""
    found: list[dict[str, str]] = []
    send = QueryParams._send_query_param_msg

    def recorded(params: QueryParams) -> None:
        found.append(params.to_dict())
        send(params)

    monkeypatch.setattr(QueryParams, "_send_query_param_msg", recorded)
    return found


@pytest.fixture(scope="session", autouse=True)
def components_found_once() -> Iterator[None]:
    """Look for Streamlit components once.

    AppTest starts a runtime for each run, which reads the metadata of all installed packages: a third of its CPU time.
    """
    found = cache(manifest_scanner.scan_component_manifests)
    with mock.patch.object(manifest_scanner, "scan_component_manifests", found):
        yield
