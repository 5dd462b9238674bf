"""Logs are configured for a whole process, so each case is a process of its own."""

import json
import subprocess
import sys

import pytest


def logged(statement, form="json"):
    program = f"""
import logging, structlog
from config.logs import configure_logs
configure_logs({form!r}, "worker")
log = structlog.get_logger()
{statement}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


SECRET_NAMES = (
    *("secret", "secret_id", "password", "PASSWORD", "vault_token", "Authorization"),
    *("webhook_signature", "private_key", "key_material", "plaintext"),
)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_field_named_like_a_secret_is_hidden(form):
    fields = dict.fromkeys(SECRET_NAMES, "hunter2")
    line = logged(f"log.info('started', **{fields!r})", form)
    assert "hunter2" not in line
    assert line.count("[hidden]") == len(SECRET_NAMES)


def test_a_secret_inside_another_field_is_hidden_as_well():
    line = logged("log.info('called', headers={'Authorization': 'hunter2', 'steps': [{'token': 'hunter2'}]})")
    assert "hunter2" not in line
    assert json.loads(line)["headers"] == {"Authorization": "[hidden]", "steps": [{"token": "[hidden]"}]}


def test_a_line_is_one_json_object_with_message_level_time_and_process():
    line = json.loads(logged("log.warning('tenant is late', tenant_id='acme-corp-12345')"))
    assert (line["event"], line["level"], line["process"]) == ("tenant is late", "warning", "worker")
    assert line["tenant_id"] == "acme-corp-12345"
    assert line["timestamp"].endswith("Z")


def test_a_librarys_own_lines_have_the_same_form():
    line = json.loads(logged("logging.getLogger('temporalio').error('lost %s', 'connection')"))
    assert (line["event"], line["level"], line["process"]) == ("lost connection", "error", "worker")


def test_the_addresses_that_an_http_library_logs_are_left_out():
    assert logged("logging.getLogger('httpx').info('GET /v1/transit?token=hunter2')") == ""


def test_an_exception_is_part_of_its_line():
    line = json.loads(logged("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('broken')"))
    assert "ZeroDivisionError" in line["exception"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exceptions_line_does_not_show_the_variables_around_it(form):
    line = logged("key = 'hunter' + '2'\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('broken')", form)
    assert "ZeroDivisionError" in line
    assert "hunter2" not in line
