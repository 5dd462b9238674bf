"""The configuration of Streamlit in the file beside the script."""

import tomllib
from pathlib import Path

from streamlit import logger as streamlit_logger

import dashboard
from dashboard.library_logs import hand_over_logs

FILE = Path(dashboard.__file__).parent / ".streamlit" / "config.toml"
CONFIGURATION = tomllib.loads(FILE.read_text(encoding="utf-8"))


def test_streamlit_sends_no_statistics_and_has_no_open_api() -> None:
    assert CONFIGURATION["browser"]["gatherUsageStats"] is False
    assert CONFIGURATION["server"]["enableAgentApi"] is False
    assert CONFIGURATION["server"]["enableStaticServing"] is False
    assert CONFIGURATION["client"]["showErrorDetails"] == "none"


def test_nothing_is_fetched_from_the_network() -> None:
    assert "http" not in FILE.read_text(encoding="utf-8")


def test_loggers_of_streamlit_pass_their_records_to_the_log_of_the_process(monkeypatch) -> None:
    monkeypatch.setattr(streamlit_logger, "setup_formatter", streamlit_logger.setup_formatter)
    before = streamlit_logger.get_logger("streamlit.made_before")
    hand_over_logs()
    for logger in (before, streamlit_logger.get_logger("streamlit.made_later")):
        assert (logger.handlers, logger.propagate) == ([], True)
