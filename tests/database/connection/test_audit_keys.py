"""The public keys of the audit signer: whoever checks may have them, the worker alone adds one, nobody changes one."""

import pytest

from core.errors.platform import DatabaseRefused
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from tests.database.fixtures import Field
from tests.database.signing import Signer

ONE, TWO = Signer("audit-heads:1"), Signer("audit-heads:2")


@pytest.fixture(autouse=True)
def recorded(worker: Database) -> None:
    PlatformQueries(worker).record_audit_keys(ONE.public_keys())


def test_every_process_that_verifies_reads_them(field: Field) -> None:
    for role in ("worker", "operator", "dashboard", "crypto"):
        assert PlatformQueries(field.open(role)).audit_keys() == ONE.public_keys()


def test_a_key_comes_beside_the_ones_before_and_repeating_it_changes_nothing(worker: Database) -> None:
    both = ONE.public_keys() | TWO.public_keys()
    for _ in range(2):
        PlatformQueries(worker).record_audit_keys(both)
    assert PlatformQueries(worker).audit_keys() == both


def test_another_key_under_a_known_name_is_refused_and_leaves_the_first(worker: Database) -> None:
    with pytest.raises(DatabaseRefused):
        PlatformQueries(worker).record_audit_keys(TWO.public_keys() | Signer("audit-heads:1").public_keys())
    assert PlatformQueries(worker).audit_keys() == ONE.public_keys()


def test_a_name_without_its_version_is_rejected(worker: Database) -> None:
    for name in ("", "audit-heads", "audit-heads:0", "audit heads:1", "audit-heads:1\nx"):
        with pytest.raises(DatabaseRefused):
            PlatformQueries(worker).record_audit_keys({name: "x"})
