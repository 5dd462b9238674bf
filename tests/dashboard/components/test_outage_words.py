"""What customers and operators read while the platform cannot carry out a request."""

import pytest

from core.errors.keys import RootKeyRefused
from core.errors.platform import DatabaseLoginRefused, DatabaseUnavailable, TemporalUnavailable
from dashboard.components.outage_words import customer_words, pending_title
from openkcm.errors import OpenKcmError
from workflows.client.updates import OperationQueued, OperationTimeout

OUTAGES = [OperationQueued(), OperationTimeout(), TemporalUnavailable()]


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.code)
def test_customers_read_no_name_of_a_component_and_whether_a_retry_is_safe(outage: OpenKcmError) -> None:
    found = customer_words(outage)
    assert found is not None
    said = " ".join(found)
    assert not any(name in said.lower() for name in ("temporal", "worker", "openkcmctl", "postgresql"))
    assert "retry is safe" in said.lower()


def test_a_request_that_continues_is_not_titled_as_refused() -> None:
    assert pending_title(OperationQueued()) == "Request queued"
    assert pending_title(OperationTimeout()) == "In progress"
    assert pending_title(TemporalUnavailable()) is None


def test_each_outage_has_different_words() -> None:
    assert len({customer_words(outage) for outage in OUTAGES}) == 3


@pytest.mark.parametrize("outage", [DatabaseUnavailable(), DatabaseLoginRefused()], ids=lambda one: type(one).__name__)
def test_customers_read_that_the_database_does_not_respond_without_its_name(outage: OpenKcmError) -> None:
    assert customer_words(outage) == ("The platform's database does not respond.", "")


def test_operators_read_the_component() -> None:
    assert "worker" in f"{OperationQueued().message} {OperationQueued().hint}"
    assert "Temporal" in TemporalUnavailable().hint


def test_other_errors_keep_their_words() -> None:
    assert customer_words(RootKeyRefused("key", "fix it")) is None
