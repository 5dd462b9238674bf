import inspect

import pytest

from crypto.kmip.enums import ResultReason
from crypto.kmip.refusals import reason_and_message
from tenancy import root_key_errors

FAILURES_OF_THE_ROOT_KEY = [
    kind
    for _, kind in inspect.getmembers(root_key_errors, inspect.isclass)
    if issubclass(kind, root_key_errors.CustomerKeyError)
]


@pytest.mark.parametrize("kind", FAILURES_OF_THE_ROOT_KEY, ids=lambda kind: kind.__name__)
def test_a_client_is_told_what_is_wrong_with_the_root_key(kind: type[root_key_errors.CustomerKeyError]):
    assert reason_and_message(kind("told")) == (ResultReason.GENERAL_FAILURE, "told")
