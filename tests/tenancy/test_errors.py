import inspect
import typing

import pytest

from tenancy import approval_errors, errors, isolation_errors, root_key_errors
from tenancy.errors import CallerError, Fault, OpenKcmError, PlatformError, TooManyRequests, UnknownRegion
from tenancy.root_key_errors import CustomerKeyError

FAMILIES = {OpenKcmError, CallerError, PlatformError, CustomerKeyError}
CLASSES = [
    found
    for module in (errors, root_key_errors, approval_errors, isolation_errors)
    for _, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, OpenKcmError) and found not in FAMILIES and found.__module__ == module.__name__
]


def one_of(error):
    """Return an instance as the code would make it, with a word for each value."""
    required = [
        ("word",) if typing.get_origin(parameter.annotation) is tuple else "word"
        for parameter in inspect.signature(error).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    return error(*required)


def test_every_code_is_given_once():
    codes = [error.code for error in CLASSES]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_has_a_code_of_its_own(error):
    assert "code" in vars(error)
    assert error.code.replace("_", "").isalpha()
    assert error.code == error.code.lower()


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_tells_a_person_what_happened_and_what_to_do(error):
    raised = one_of(error)
    assert raised.message
    assert str(raised) == raised.message
    assert raised.hint
    for text in (raised.message, raised.hint):
        assert not text.endswith(".")
        assert text.split()[0] in {text.split()[0].lower(), "OpenKCM"}


@pytest.mark.parametrize("error", CLASSES)
def test_the_callers_fault_is_never_tried_again_unless_waiting_mends_it(error):
    assert not (error.fault is Fault.CALLER and error.retryable) or error is TooManyRequests


def test_a_region_that_is_not_offered_says_which_are():
    assert UnknownRegion(("eu-west-1", "us-east-1")).hint == "choose one of: eu-west-1, us-east-1"


def test_text_and_hint_can_be_told_more_exactly_where_the_error_is_raised():
    told = errors.SchemaRefused("migration 2 was edited", "restore it")
    assert (str(told), told.hint) == ("migration 2 was edited", "restore it")
