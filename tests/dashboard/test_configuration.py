"""The configuration of Streamlit in the file beside the script."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.middleware.sessions import SessionMiddleware
from streamlit import config
from streamlit import logger as streamlit_logger
from streamlit.web.server.starlette.starlette_app import create_streamlit_middleware

import dashboard
from config.settings import Settings
from dashboard.__main__ import create_app
from dashboard.library_logs import hand_over_logs

FILE = Path(dashboard.__file__).parent / ".streamlit" / "config.toml"
CONFIGURATION = tomllib.loads(FILE.read_text(encoding="utf-8"))


def test_streamlit_sends_no_statistics_and_has_no_open_api() -> None:
    assert CONFIGURATION["browser"]["gatherUsageStats"] is False
    assert CONFIGURATION["server"]["enableAgentApi"] is False
    assert CONFIGURATION["server"]["enableStaticServing"] is False
    assert CONFIGURATION["client"]["showErrorDetails"] == "none"


def test_a_run_does_not_examine_the_objects_of_all_open_tabs() -> None:
    assert CONFIGURATION["runner"]["postScriptGC"] is False


def test_nothing_is_fetched_from_the_network() -> None:
    assert "http" not in FILE.read_text(encoding="utf-8")


@pytest.fixture
def _configured() -> Iterator[None]:
    """Set the options of the file, which Streamlit read for another script of this process."""
    changed = {"server.cookieSecret": None, "server.enableAgentApi": False, "browser.gatherUsageStats": False}
    before = {name: config.get_option(name) for name in (*changed, "client.allowedOrigins")}
    for name, value in changed.items():
        config.set_option(name, value)
    yield
    for name, value in before.items():
        config.set_option(name, value)


@pytest.mark.usefixtures("_configured")
def test_sign_on_that_begins_at_one_instance_can_end_at_another() -> None:
    parts = {
        "settings": Settings(),
        "origin": "https://kcm.example",
        "development": None,
        "develops": False,
        "guard": None,
        "cookie_secrets": ("the same for all instances", "the former one"),
        "client_secret": "of the client",
        "metadata_url": "https://sign-on.example/.well-known/openid-configuration",
    }
    create_app(cast("Any", SimpleNamespace(**parts)))
    [session] = [one for one in create_streamlit_middleware() if cast("Any", one.cls) is SessionMiddleware]
    assert session.kwargs["secret_key"] == "the same for all instances"
    assert config.get_option("client.allowedOrigins") == ["https://kcm.example"]


def test_loggers_of_streamlit_pass_their_records_to_the_log_of_the_process(monkeypatch) -> None:
    monkeypatch.setattr(streamlit_logger, "setup_formatter", streamlit_logger.setup_formatter)
    before = streamlit_logger.get_logger("streamlit.made_before")
    hand_over_logs()
    for logger in (before, streamlit_logger.get_logger("streamlit.made_later")):
        assert (logger.handlers, logger.propagate) == ([], True)
