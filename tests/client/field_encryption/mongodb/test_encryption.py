"""The short way to decrypt a value returns what the checked one returns, or nothing."""

from datetime import UTC, datetime

import pytest
from bson import CodecOptions
from bson.binary import Binary

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption.key_cache import ColumnKeys, KeyErrorScope, KeyUnwrapError
from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import catalogue
from openkcm.field_encryption.mongodb.encryption import DatabaseKeys, FieldKeys
from tests.client.field_encryption.stand import MemoryKeys, MemoryKeyStore

CODEC = CodecOptions(tz_aware=True)
KEY_SECONDS = 60.0
PLACE, IDENTITY = "clinic.patients", b"the identity of a document"
[FIELD, OTHER] = catalogue(
    [ProtectedField(Store.MONGODB, PLACE, name, Mode.RANDOMISED) for name in ("diagnosis", "other")]
)["clinic", "patients"].fields


class Process:
    def __init__(self) -> None:
        self.now, self.source = 1000.0, MemoryKeys()
        self.columns = ColumnKeys(Store.MONGODB, self.source, MemoryKeyStore(), KEY_SECONDS, lambda: self.now)
        self.keys: FieldKeys = DatabaseKeys(self.columns).of(FIELD)

    def quickly(self, stored: object, identity: bytes | None = IDENTITY) -> bytes | None:
        self.keys.renew_if_due()
        return sealing.decrypted_quickly(self.keys, FIELD, identity, stored)

    def sealed(self, value: object = "flu") -> Binary:
        """Return an encrypted value, whose cipher is known because it was decrypted with every check."""
        stored = sealing.seal(self.keys, FIELD, IDENTITY, value, CODEC)
        assert isinstance(stored, Binary)
        self.keys.renew_if_due()
        assert sealing.decrypted(self.keys, FIELD, IDENTITY, stored, CODEC) == value
        return stored


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.mark.parametrize(
    "value",
    ["flu", "", "ü", 1, 2**40, 1.5, True, b"bytes", ["a", 1], {"a": {"b": 1}}, datetime(2026, 1, 1, tzinfo=UTC)],
)
def test_both_ways_return_the_same_value(process, value):
    plain = process.quickly(process.sealed(value))
    assert plain is not None
    assert sealing.value_of(plain, CODEC) == value


def test_an_altered_cut_or_moved_value_returns_nothing(process):
    stored = process.sealed()
    for at in range(len(stored)):
        assert (
            process.quickly(Binary(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :], sealing.SUBTYPE)) is None
        )
        assert process.quickly(Binary(stored[:at], sealing.SUBTYPE)) is None
    for identity in (b"another document", b"", None):
        assert process.quickly(stored, identity) is None
    assert sealing.decrypted_quickly(process.keys, OTHER, IDENTITY, stored) is None
    for other in (Binary(bytes(stored), 0), bytes(stored), "flu", None, 1, {"t": stored, "c": stored}):
        assert process.quickly(other) is None
    assert process.quickly(stored) is not None


def test_a_cipher_is_known_after_a_checked_value_only(process):
    stored = sealing.seal(process.keys, FIELD, IDENTITY, "flu", CODEC)
    assert process.quickly(stored) is None


def test_a_cipher_is_used_for_its_time(process):
    stored = process.sealed()
    process.source.up = False
    process.now += KEY_SECONDS / 2 - 1
    assert process.quickly(stored) is not None
    process.now += KEY_SECONDS / 2 + 1
    assert process.quickly(stored) is None


def test_a_rejection_ends_a_cipher_immediately(process):
    stored = process.sealed()
    process.source.refused = KeyUnwrapError("tenant_not_operational", "locked", ends=KeyErrorScope.ALL_KEYS)
    assert not process.columns.check_again()
    assert process.quickly(stored) is None
