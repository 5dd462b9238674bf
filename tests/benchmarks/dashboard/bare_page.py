"""A page with a heading and a choice, by Streamlit's own server: the part that browser and Streamlit take alone.

Its times are measured between those of the dashboard's pages. They show how fast the machine is in this run.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from tests.benchmarks.dashboard.browser import Interaction, Place, at_rest, wait_for_heading, wait_for_text
from tests.e2e.dashboard.harness.served import answering
from tests.ports import free_port

_SCRIPT = """
import streamlit as st

st.header("Choice")
st.write("Chosen:", st.radio("Number", ["one", "two"], horizontal=True))
"""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the page until the end of the block, and yield its address."""
    script, port = folder / "bare_page.py", free_port()
    script.write_text(_SCRIPT)
    options = {
        "server.port": port,
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), *arguments], cwd=folder, stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    with answering(process, f"{url}/_stcore/health"):
        yield url


def _choose(page: Page) -> None:
    page.get_by_test_id("stRadio").get_by_text("two", exact=True).click()
    wait_for_text("Chosen: two")(page)
    at_rest(page)


PLACE = Place("Streamlit alone", "", wait_for_heading("Choice"))
INTERACTION = Interaction("Streamlit alone: a choice", "", wait_for_heading("Choice"), _choose)
