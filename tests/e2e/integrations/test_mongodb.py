"""A MongoDB application encrypts its fields with the tenant's keys, and stops when it loses access to them.

The real driver runs in both of its modes. By default it gets the key that wraps its data keys and wraps them itself
(KMIP 1.0: Register, Activate, Get). In delegated mode that key never leaves the crypto service (KMIP 1.2: Create,
Activate, Encrypt, Decrypt). The driver uses unwrapped data keys until its cache expires.
"""

import time
from collections.abc import Iterator

import pytest
from bson.binary import Binary
from pymongo.errors import EncryptionError

from crypto_service.kmip.codec.enums import RevocationReasonCode
from tests.concurrency import wait_until
from tests.e2e.connected import AT_ONCE_SECONDS, Service, connect, hold_lock
from tests.e2e.integrations.mongo import Driver, driver, mongo_server
from tests.e2e.kmip_wire import ask, revocation

MODES = {"default": {}, "delegated": {"delegated": True}}


@pytest.fixture(scope="module")
def mongo(tmp_path_factory) -> Iterator[str]:
    with mongo_server(tmp_path_factory.mktemp("mongo")) as address:
        yield address


@pytest.fixture(scope="module")
def shop(stack, tenant, tmp_path_factory) -> Service:
    """Return a service whose database is MongoDB."""
    return connect(stack, tenant, "mongodb", "shop", tmp_path_factory.mktemp("shop") / "kcm")


@pytest.fixture(scope="module")
def neighbour(stack, tenant, tmp_path_factory) -> Service:
    return connect(stack, tenant, "mongodb", "neighbour", tmp_path_factory.mktemp("neighbour") / "kcm")


@pytest.fixture(params=MODES)
def application(mongo, shop, request) -> Iterator[Driver]:
    with driver(mongo, shop, MODES[request.param]) as one:
        yield one


def a_name() -> str:
    return f"key-{time.monotonic_ns()}"


def decrypts(application: Driver, sealed: Binary) -> bool:
    try:
        return application.encryption.decrypt(sealed) == "078-05-1120"
    except EncryptionError:
        return False


def refusal(application: Driver, sealed: Binary) -> str:
    """Return the reason for which a new driver cannot decrypt the value; empty if it can."""
    with driver(application.address, application.service, {}) as fresh:
        try:
            fresh.encryption.decrypt(sealed)
        except EncryptionError as refused:
            return str(refused)
    return ""


def assert_stops(application: Driver, sealed: Binary, because: str) -> None:
    """Assert that a new driver is rejected with the reason, and that a running driver stops when its cache expires."""
    wait_until(
        lambda: because in refusal(application, sealed), lambda: "a new driver decrypts the value", AT_ONCE_SECONDS
    )
    wait_until(lambda: not decrypts(application, sealed), lambda: "the cache does not expire", AT_ONCE_SECONDS)


def test_a_field_is_encrypted_and_read_by_the_drivers_of_its_service_only(application, neighbour, mongo):
    sealed = application.encrypt("078-05-1120", application.new_key(a_name()))
    assert b"078-05-1120" not in sealed
    assert application.encryption.decrypt(sealed) == "078-05-1120"
    with driver(mongo, neighbour, {}) as other, pytest.raises(EncryptionError):
        other.encryption.decrypt(sealed)

    # A client with automatic decryption returns the plaintext without a call of the application.
    stored = application.client["shop"]["people"].insert_one({"name": "Ann", "ssn": sealed})
    with application.reader() as reader:
        found = reader["shop"]["people"].find_one({"_id": stored.inserted_id})
    assert found == {"_id": stored.inserted_id, "name": "Ann", "ssn": "078-05-1120"}
    plain = application.client["shop"]["people"].find_one({"_id": stored.inserted_id})
    assert plain is not None
    assert plain["ssn"] == sealed


def test_data_keys_are_rewrapped_in_either_mode_and_the_old_wrapping_key_is_not_needed(application):
    name = a_name()
    data_key = application.new_key(name)
    sealed = application.encrypt("078-05-1120", data_key)
    for mode in MODES.values():
        before = application.wrapped_by(data_key)
        done = application.encryption.rewrap_many_data_key({"keyAltNames": name}, provider="kmip", master_key=mode)
        assert done.bulk_write_result is not None
        assert done.bulk_write_result.modified_count == 1
        assert application.wrapped_by(data_key) != before
        revoke(application.service, before)
        assert refusal(application, sealed) == ""


def revoke(service: Service, object_id: str) -> None:
    with service.open_kmip() as connection:
        ask(connection, revocation(object_id, RevocationReasonCode.UNSPECIFIED))


def test_a_driver_stops_when_its_key_is_revoked(application):
    data_key = application.new_key(a_name())
    sealed = application.encrypt("078-05-1120", data_key)
    revoke(application.service, application.wrapped_by(data_key))
    assert_stops(application, sealed, "the key is deactivated")


def test_a_driver_stops_while_the_tenant_is_locked(application, stack, tenant):
    sealed = application.encrypt("078-05-1120", application.new_key(a_name()))
    with hold_lock(stack, tenant):
        assert_stops(application, sealed, "the tenant is locked")
        with pytest.raises(EncryptionError, match="the tenant is locked"):
            application.new_key(a_name())
    wait_until(lambda: decrypts(application, sealed), lambda: "the driver does not decrypt again", AT_ONCE_SECONDS)


def test_a_driver_stops_when_the_service_is_disconnected_and_decrypts_when_connected_again(
    stack, tenant, mongo, tmp_path
):
    leaving = connect(stack, tenant, "mongodb", "leaving-shop", tmp_path / "kcm")
    with driver(mongo, leaving, MODES["default"]) as default, driver(mongo, leaving, MODES["delegated"]) as delegated:
        both = (default, delegated)
        sealed = [one.encrypt("078-05-1120", one.new_key(a_name())) for one in both]
        leaving.disconnect()
        for one, value in zip(both, sealed, strict=True):
            assert_stops(one, value, "client certificate not authorized")
        connect(stack, tenant, "mongodb", leaving.name, leaving.folder)
        for value in sealed:
            wait_until(
                lambda value=value: refusal(default, value) == "",
                lambda: "the driver does not decrypt again",
                AT_ONCE_SECONDS,
            )
