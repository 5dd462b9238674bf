"""The address that callbacks of fields write."""

import pytest
import streamlit as st
from streamlit.runtime.state.query_params import QueryParams
from streamlit.testing.v1 import AppTest

from dashboard.components.address import write_query

pytestmark = pytest.mark.integration  # AppTest waits in steps


def page() -> None:
    st.text_input(
        "Find", key="find", on_change=lambda: write_query({"find": st.session_state["find"], "in": ["a", "b"]})
    )


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The queries that were sent to the browser."""
    found: list[dict[str, str]] = []
    monkeypatch.setattr(QueryParams, "_send_query_param_msg", lambda params: found.append(params.to_dict()))
    return found


@pytest.mark.parametrize("find", ["acme", "beta"])
def test_callback_writes_a_query_only_if_the_request_came_with_another_one(
    find: str, sent: list[dict[str, str]]
) -> None:
    at = AppTest.from_string(f"from {__name__} import page\npage()").run()
    at.query_params["find"] = "acme"
    at.query_params["in"] = ["a", "b"]
    at.text_input[0].set_value(find).run()
    assert sent == ([] if find == "acme" else [{"find": find, "in": "b"}])
