"""A selection in the address survives a run that has the address from before the click."""

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.components.selection import this_run


def _script() -> None:
    import streamlit as st  # noqa: PLC0415 - AppTest runs the source of this function alone

    from dashboard.components.selection import select, selected  # noqa: PLC0415 - the same

    if "clicked" in st.session_state:  # in the run of another part of the page
        select("row", st.session_state.pop("clicked"))
    else:
        st.text(selected("row"))


def shown(page: AppTest, **query: str) -> str:
    page.query_params.clear()
    page.query_params.update(query)
    return str(page.run().text[0].value)


@pytest.mark.integration
def test_the_newest_of_click_and_address_is_selected() -> None:
    page = AppTest.from_function(_script)
    assert shown(page) == ""
    page.session_state["clicked"] = "7"
    page.run()
    assert page.query_params == {"row": "7"}
    assert shown(page) == "7", "the request was sent before the address changed"
    assert shown(page, row="7") == "7"
    page.session_state["clicked"] = ""
    page.run()
    assert page.query_params == {}
    assert shown(page, row="7") == "", "the same for the end of a selection"
    assert shown(page) == ""
    assert shown(page, row="9") == "9"
    assert shown(page) == "", "as after Back"


def _admitted() -> None:
    import streamlit as st  # noqa: PLC0415 - AppTest runs the source of this function alone

    from dashboard.components.selection import this_run  # noqa: PLC0415 - the same

    @st.fragment
    def part() -> None:
        st.text(f"{st.session_state['first']()}")

    st.session_state.setdefault("first", this_run())
    part()


@pytest.mark.integration
def test_what_holds_for_a_run_does_not_hold_in_the_next() -> None:
    page = AppTest.from_function(_admitted)
    assert page.run().text[0].value == "True"
    assert page.run().text[0].value == "False"
    assert not this_run()(), "outside of a run"
