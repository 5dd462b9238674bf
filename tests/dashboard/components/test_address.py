"""The address that callbacks of fields write, and the one that a page restores."""

import pytest
import streamlit as st
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.testing.v1 import AppTest

from dashboard.components.address import change_query

pytestmark = pytest.mark.integration  # AppTest waits in steps


def page() -> None:
    st.text_input(
        "Find",
        key="find",
        on_change=lambda: change_query({"find": st.session_state["find"], "in": ["a", "b"], "gone": ""}),
    )


@pytest.mark.parametrize("find", ["acme", "beta"])
def test_callback_writes_a_query_only_if_the_request_came_with_another_one(
    find: str, sent_queries: list[dict[str, str]]
) -> None:
    at = AppTest.from_string(f"from {__name__} import page\npage()").run()
    at.query_params["find"] = "acme"
    at.query_params["in"] = ["a", "b"]
    at.text_input[0].set_value(find).run()
    assert sent_queries == ([] if find == "acme" else [{"find": find, "in": "b"}])


def test_callback_keeps_the_other_values_and_removes_empty_ones(sent_queries: list[dict[str, str]]) -> None:
    at = AppTest.from_string(f"from {__name__} import page\npage()").run()
    at.query_params["other"] = ["x", "y"]
    at.query_params["gone"] = "1"
    at.query_params["in"] = "c"
    at.text_input[0].set_value("acme").run()
    assert at.query_params == {"other": ["x", "y"], "find": "acme", "in": ["a", "b"]}
    assert len(sent_queries) == 1, "each message is a step of the browser's history"


def test_new_run_keeps_an_unsent_query_before_its_own_messages() -> None:
    """The browser replaces its entry only in the run of a move; in a later run it would add one and lose Forward."""
    query, new_run = ForwardMsg(), ForwardMsg()
    query.page_info_changed.query_string = "find=acme"
    new_run.new_session.name = "page"
    queue = ForwardMsgQueue()
    queue.enqueue(query)
    queue.clear(retain_lifecycle_msgs=True)
    queue.enqueue(new_run)
    assert queue.flush() == [query, new_run]
