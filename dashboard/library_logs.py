"""Streamlit's logs, and those of uvicorn that it takes over, as lines of this process's log."""

import logging

from streamlit import logger as streamlit_logger


def hand_over_logs() -> None:
    """Propagate the records of all present and future Streamlit loggers to the root logger.

    Streamlit gives each logger a handler with another format, which would put plain text between lines of JSON.
    """
    vars(streamlit_logger)["setup_formatter"] = _pass_on
    streamlit_logger.update_formatter()


def _pass_on(logger: logging.Logger) -> None:
    handler = vars(logger).pop("streamlit_console_handler", None)
    if isinstance(handler, logging.Handler):
        logger.removeHandler(handler)
    logger.propagate = True
