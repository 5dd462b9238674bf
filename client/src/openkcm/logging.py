"""Structured logs: a constant message, values in fields, no secret in either."""

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

_HIDDEN = ("secret", "password", "token", "authorization", "signature", "private", "key_material", "plaintext")
_OF_STRUCTLOG = ("_record", "_from_structlog", "exc_info")
"""Fields that pass structlog's own objects from one processor to the next."""


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: "[hidden]" if _names_a_secret(name) else _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value


def _names_a_secret(name: object) -> bool:
    return any(hidden in str(name).lower() for hidden in _HIDDEN)


def _redact(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide each field whose name suggests a secret: a last safeguard against a secret in a log call."""
    for name, value in fields.items():
        if name not in _OF_STRUCTLOG:
            fields[name] = "[hidden]" if _names_a_secret(name) else _redacted(value)
    return fields


def in_color(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether output to a stream is coloured: only on a terminal, and unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not environment.get("NO_COLOR")


def configure_logs(form: str, process: str) -> None:
    """Send this process's logs, and those of the libraries it uses, to standard error as `json` or `console` lines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=in_color(sys.stderr, os.environ))
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx2", "httpcore2", "urllib3", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)
