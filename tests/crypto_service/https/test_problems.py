import inspect

import pytest

from core.errors import keys as root_key_errors
from core.errors import platform as errors
from core.errors.keys import KeyNotUsable, WrongContext
from core.errors.tenants import TenantNotOperational
from crypto_service.https.problems import STATUS, from_error
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.errors import reason_and_message
from openkcm.errors import InvalidName, OpenKcmError

FAILURES_OF_THE_ROOT_KEY = [
    kind
    for _, kind in inspect.getmembers(root_key_errors, inspect.isclass)
    if issubclass(kind, root_key_errors.CustomerKeyError) and kind is not root_key_errors.CustomerKeyError
]


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.code)
def test_listed_error_keeps_code_message_and_hint_and_its_status_states_retry(kind: type[OpenKcmError]):
    error = _made(kind)
    problem = from_error(error)
    document = problem.document()
    assert (document["code"], document["detail"]) == (kind.code, error.message)
    assert document["hint"] == error.hint
    assert "reference" not in document
    assert kind.retryable is (problem.status in {429, 503}) is (problem.retry_after is not None)


@pytest.mark.parametrize("kind", FAILURES_OF_THE_ROOT_KEY, ids=lambda kind: kind.code)
def test_root_key_error_is_424_or_503_and_has_a_kmip_message(kind: type[OpenKcmError]):
    assert from_error(kind()).status == (503 if kind.retryable else 424)
    assert reason_and_message(kind("what")) == (ResultReason.GENERAL_FAILURE, "what")


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), errors.DatabaseRefused("hunter2"), WrongContext()])
def test_unlisted_error_becomes_a_reference(error: Exception):
    first, second = from_error(error), from_error(error)
    assert (first.status, first.code) == (500, "internal")
    assert len(first.reference) == 32
    assert first.reference != second.reference
    assert "hunter2" not in str(first)


def _made(kind: type[OpenKcmError]) -> OpenKcmError:
    if issubclass(kind, InvalidName):
        return kind("resource", "text")
    if issubclass(kind, TenantNotOperational | KeyNotUsable):
        return kind("locked")
    if issubclass(kind, errors.ReleaseOutdated):
        return kind(3, 2, 1)
    return kind("what", "how")
