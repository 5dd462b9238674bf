"""Streamlit's logs, and those of uvicorn that it takes over, as lines of this process's log."""

import logging

from streamlit import logger as streamlit_logger


def hand_over_logs() -> None:
    """Have the loggers that Streamlit made, and those it makes later, pass their records on to the root logger.

    It gives each a handler with another format, so that the log held lines of text between those of JSON.
    """
    vars(streamlit_logger)["setup_formatter"] = _pass_on
    streamlit_logger.update_formatter()


def _pass_on(logger: logging.Logger) -> None:
    handler = vars(logger).pop("streamlit_console_handler", None)
    if isinstance(handler, logging.Handler):
        logger.removeHandler(handler)
    logger.propagate = True
