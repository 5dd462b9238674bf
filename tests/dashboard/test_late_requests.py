"""Requests of fragments that arrive after their page was left."""

from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.pages_manager import PagesManager

from dashboard.late_requests import ignore_late_requests


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[ClientState | None]:
    """The requests that a session with the page "usage" accepts."""
    found: list[ClientState | None] = []
    monkeypatch.setattr(AppSession, "request_rerun", lambda _session, state: found.append(state))
    ignore_late_requests()
    return found


@pytest.fixture
def session() -> Any:
    """What the replaced method reads of a session, on the page "usage"."""
    pages = PagesManager("app.py")
    pages.set_current_page_script_hash("usage")
    return SimpleNamespace(_pages_manager=pages)


def test_fragment_of_the_present_page_runs(accepted: list[ClientState | None], session: Any) -> None:
    refresh = ClientState(page_script_hash="usage", fragment_id="strip", is_auto_rerun=True)
    AppSession.request_rerun(session, refresh)
    AppSession.request_rerun(session, None)
    assert accepted == [refresh, None]


def test_fragment_of_another_page_is_ignored(accepted: list[ClientState | None], session: Any) -> None:
    AppSession.request_rerun(session, ClientState(page_script_hash="keys", fragment_id="strip"))
    assert accepted == []


def test_move_to_another_page_is_no_late_request(accepted: list[ClientState | None], session: Any) -> None:
    move = ClientState(page_script_hash="audit")
    AppSession.request_rerun(session, move)
    assert accepted == [move]
    assert session._pages_manager.current_page_script_hash == "usage", "Streamlit detects the move by it"
