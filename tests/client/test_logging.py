"""Logging is configured for a whole process, so each case runs in a separate process."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog

from openkcm.logging import _redact, configure_logs, in_color


def logged(statement, form="json"):
    program = f"""
import logging, structlog
from openkcm.logging import configure_logs
configure_logs({form!r}, "worker")
log = structlog.get_logger()
{statement}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


def test_secret_is_hidden_at_any_depth():
    fields = {"_record": 1, "user": "ada", "nested": [{"token": "hunter2", "path": "/"}], "password": "hunter2"}
    hidden = {**fields, "nested": [{"token": "[hidden]", "path": "/"}], "password": "[hidden]"}
    assert _redact(None, "info", fields) == hidden


SECRET_NAMES = (
    *("secret", "secret_id", "password", "PASSWORD", "vault_token", "Authorization"),
    *("webhook_signature", "private_key", "key_material", "plaintext"),
)
CASES = f"""
log.info('started', **{dict.fromkeys(SECRET_NAMES, "hunter2")!r})
log.info('called', headers={{'Authorization': 'hunter2', 'steps': [{{'token': 'hunter2'}}]}})
log.warning('tenant is late', tenant_id='acme-corp-12345')
logging.getLogger('temporalio').error('lost %s', 'connection')
logging.getLogger('httpx2').info('GET /v1/transit?token=hunter2')
key = 'hunter' + '2'
try:
    1 / 0
except ZeroDivisionError:
    log.exception('broken')
"""


@pytest.mark.integration
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_is_logged(form):
    lines = logged(CASES, form)
    assert "hunter2" not in lines
    assert lines.count("[hidden]") == len(SECRET_NAMES) + 2
    assert "ZeroDivisionError" in lines
    assert "\x1b" not in lines
    assert "transit" not in lines, "addresses that an HTTP library logs are left out"


@pytest.mark.integration
def test_each_line_is_one_json_object_with_message_level_time_and_process():
    lines = [json.loads(line) for line in logged(CASES).splitlines()]
    events = [(line["event"], line["level"]) for line in lines]
    assert events[1:] == [
        ("called", "info"),
        ("tenant is late", "warning"),
        ("lost connection", "error"),
        ("broken", "error"),
    ]
    assert {line["process"] for line in lines} == {"worker"}
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert lines[1]["headers"] == {"Authorization": "[hidden]", "steps": [{"token": "[hidden]"}]}
    assert lines[2]["tenant_id"] == "acme-corp-12345"
    assert "ZeroDivisionError" in lines[4]["exception"]


@pytest.mark.parametrize(("terminal", "set_to", "colored"), [(1, None, 1), (1, "", 1), (1, "1", 0), (0, None, 0)])
def test_console_logs_are_in_color_only_on_a_terminal_without_no_color(terminal, set_to, colored, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: bool(terminal))
    assert in_color(stream, {} if set_to is None else {"NO_COLOR": set_to}) == bool(colored)


def test_configured_logs_go_to_standard_error(capsys):
    """Runs in this process so that coverage includes it; the changed settings are restored."""
    before, handlers = structlog.get_config(), list(logging.getLogger().handlers)
    try:
        configure_logs("json", "worker")
        structlog.get_logger().info("started", token="hunter2")
    finally:
        structlog.configure(**before)
        logging.getLogger().handlers[:] = handlers
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["token"]) == ("started", "[hidden]")
