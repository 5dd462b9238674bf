"""Public keys of the audit signer: verifying processes can read them, only the worker adds one, none changes one."""

import pytest

from core.errors.platform import DatabaseRefused
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from tests.database.fixtures import Field
from tests.database.signing import Signer

ONE, TWO = Signer("audit-checkpoints:1"), Signer("audit-checkpoints:2")


@pytest.fixture(autouse=True)
def recorded(worker: Database) -> None:
    PlatformQueries(worker).record_audit_keys(ONE.public_keys())


def test_verifying_processes_can_read_the_public_keys(field: Field) -> None:
    for role in ("worker", "operator", "dashboard", "crypto"):
        assert PlatformQueries(field.open(role)).audit_keys() == ONE.public_keys()


def test_new_key_is_added_and_a_repeated_call_changes_nothing(worker: Database) -> None:
    both = ONE.public_keys() | TWO.public_keys()
    for _ in range(2):
        PlatformQueries(worker).record_audit_keys(both)
    assert PlatformQueries(worker).audit_keys() == both


def test_another_key_with_a_known_name_is_rejected(worker: Database) -> None:
    with pytest.raises(DatabaseRefused):
        PlatformQueries(worker).record_audit_keys(TWO.public_keys() | Signer("audit-checkpoints:1").public_keys())
    assert PlatformQueries(worker).audit_keys() == ONE.public_keys()


def test_key_name_without_a_version_is_rejected(worker: Database) -> None:
    for name in ("", "audit-checkpoints", "audit-checkpoints:0", "audit heads:1", "audit-checkpoints:1\nx"):
        with pytest.raises(DatabaseRefused):
            PlatformQueries(worker).record_audit_keys({name: "x"})
