import importlib
import inspect
import pkgutil
import typing

import core
import core.errors
import openkcm.errors
from core.errors import platform as errors
from core.errors.compliance import ExportedRecordsArchived
from core.errors.keys import CustomerKeyError
from core.errors.requests import TooManyRequests, UnknownRegion
from openkcm.errors import CallerError, Fault, OpenKcmError, PlatformError

FAMILIES = {OpenKcmError, CallerError, PlatformError, CustomerKeyError}
MODULES = [
    openkcm.errors,
    *(importlib.import_module(f"core.errors.{one.name}") for one in pkgutil.iter_modules(core.errors.__path__)),
]
CLASSES = [
    found
    for module in MODULES
    for _, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, OpenKcmError) and found not in FAMILIES and found.__module__ == module.__name__
]


def one_of(error):
    """Return an instance of the error with a placeholder for each required argument."""
    required = [
        ("word",) if typing.get_origin(parameter.annotation) is tuple else "word"
        for parameter in inspect.signature(error).parameters.values()
        if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return error(*required)


def test_every_error_has_its_own_code():
    codes = [vars(error)["code"] for error in CLASSES]
    assert len(codes) == len(set(codes)) > 100
    assert [code for code in codes if not code.replace("_", "").isalpha() or code != code.lower()] == []


def test_every_error_has_a_message_and_a_hint():
    for error in CLASSES:
        raised = one_of(error)
        assert str(raised) == raised.message, error
        for text in (raised.message, raised.hint):
            assert text, error
            assert not text.endswith("."), error
            first = text.split()[0]
            assert first == first.lower() or first in {"OpenKCM", "https://HOST/PATH,"}, error


def test_caller_errors_are_retryable_only_for_rate_limits_and_an_archive_during_an_export():
    retried = {error for error in CLASSES if error.fault is Fault.CALLER and error.retryable}
    assert retried == {TooManyRequests, ExportedRecordsArchived}


def test_unknown_region_lists_the_offered_regions():
    assert UnknownRegion(("eu-west-1", "us-east-1")).hint == "choose one of: eu-west-1, us-east-1"


def test_message_and_hint_can_be_passed_to_the_constructor():
    raised = errors.SchemaRefused("migration 2 was edited", "restore it")
    assert (str(raised), raised.hint) == ("migration 2 was edited", "restore it")
