"""The address after a new run of the page: the run sends it, because Streamlit may discard what the former run sent."""

import pytest
import streamlit as st
from streamlit.runtime.state.query_params import QueryParams
from streamlit.testing.v1 import AppTest

from dashboard.components.address import rerun_at, rerun_here, restore_query
from dashboard.components.selection import current_run

pytestmark = pytest.mark.integration  # AppTest waits in steps


def page() -> None:
    restore_query("page")
    st.session_state["runs"] = [*st.session_state.get("runs", ()), current_run()]
    if st.button("open"):
        rerun_at({"id": "acme"})
    if st.button("close"):
        st.query_params.clear()
        rerun_here()


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The runs that sent the browser an address, in order."""
    found: list[object] = []
    send = QueryParams._send_query_param_msg

    def recorded(params: QueryParams) -> None:
        found.append(current_run())
        send(params)

    monkeypatch.setattr(QueryParams, "_send_query_param_msg", recorded)
    return found


@pytest.mark.parametrize(("button", "address"), [(0, {"id": "acme"}), (1, {})])
def test_run_that_follows_sends_the_address(button: int, address: dict[str, str], senders: list[object]) -> None:
    at = AppTest.from_string(f"from {__name__} import page\npage()")
    at.query_params["id"] = "former"
    at.run()
    at.button[button].click().run()
    assert at.query_params == address
    assert senders[-1] is at.session_state["runs"][-1]
    assert senders[-1] is not senders[-2]


def test_ordinary_run_sends_no_address(senders: list[object]) -> None:
    at = AppTest.from_string(f"from {__name__} import page\npage()").run()
    at.button[0].click().run()
    del senders[:]
    at.run()
    assert senders == []
