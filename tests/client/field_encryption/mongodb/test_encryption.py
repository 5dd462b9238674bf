"""The loop that decrypts ordinary values returns what the checked way returns, and leaves all others to it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import CodecOptions, ObjectId
from bson.binary import Binary
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.errors import OpenKcmError
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import ColumnKeys, KeyErrorScope, KeyUnwrapError
from openkcm.field_encryption.mongodb import encryption as sealing
from openkcm.field_encryption.mongodb.catalog import Field, catalogue
from openkcm.field_encryption.mongodb.encryption import DatabaseKeys
from openkcm.field_encryption.mongodb.errors import KeysUnavailable
from openkcm.field_encryption.mongodb.replies import ReplyDecryptor
from openkcm.field_encryption.mongodb.rewrite.projections import Documents
from openkcm.field_encryption.mongodb.rewrite.request import Count, Request
from openkcm.field_encryption.usage import UsageReporter
from tests.client.field_encryption.stand import MemoryKeys, MemoryKeyStore

CODEC = CodecOptions(tz_aware=True)
KEY_SECONDS = 60.0
PATIENTS = catalogue(
    [
        ProtectedField(Store.MONGODB, "clinic.patients", "diagnosis", Mode.RANDOMISED),
        ProtectedField(Store.MONGODB, "clinic.patients", "insurance", Mode.DETERMINISTIC),
        ProtectedField(Store.MONGODB, "clinic.patients", "note", Mode.RANDOMISED, plaintext_allowed=True),
    ]
)["clinic", "patients"]
DIAGNOSIS, INSURANCE, NOTE = PATIENTS.fields
COMPARABLE = ["flu", "", "ü", 1, -1, 2**40, True, b"bytes", ObjectId(), datetime(2026, 1, 1, tzinfo=UTC)]
ANY = [*COMPARABLE, 1.5, ["a", 1], {"a": {"b": 1}}]
IDS = [1, -(2**63), 2**63 - 1, "one", ObjectId(), b"one"]


class Process:
    def __init__(self) -> None:
        self.now, self.source = 1000.0, MemoryKeys()
        self.columns = ColumnKeys(Store.MONGODB, self.source, MemoryKeyStore(), KEY_SECONDS, lambda: self.now)
        self.keys = DatabaseKeys(self.columns)
        self.checked_values = 0

    def stored(self, field: Field, value: object, identity: object = 1) -> Any:
        part = sealing.identity(identity, CODEC)
        assert part is not None
        return sealing.seal(self.keys.of(field), field, part, value, CODEC)[0]

    def checked(self, field: Field, stored: Any, identity: object = 1) -> Any:
        self.keys.readable(PATIENTS)
        return sealing.decrypted(self.keys.of(field), field, sealing.identity(identity, CODEC), stored, CODEC)

    def read(self, field: Field, stored: Any, identity: object = 1) -> Any:
        """Return a value as a reply contains it, and count whether the loop needed the checked way."""
        before = sealing.decrypted

        def counted(*arguments: Any) -> Any:
            self.checked_values += 1
            return before(*arguments)

        request = Request(PATIENTS, self.keys, CODEC, Count(UsageReporter(lambda _: 60.0)))
        reply = {"cursor": {"firstBatch": [{"_id": identity, field.path: stored}]}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sealing, "decrypted", counted)
            return ReplyDecryptor(request, Documents.ORIGINAL).decrypted(reply)["cursor"]["firstBatch"][0][field.path]


@pytest.fixture
def process() -> Process:
    return Process()


def outcome(call: Callable[[], Any]) -> Any:
    """Return the type and the value, or the error."""
    try:
        found = call()
    except OpenKcmError as failed:
        return type(failed), str(failed)
    return type(found), found


@pytest.mark.parametrize("identity", IDS)
@pytest.mark.parametrize(
    ("field", "value"), [*((DIAGNOSIS, one) for one in ANY), *((INSURANCE, one) for one in COMPARABLE)]
)
def test_ordinary_value_is_decrypted_by_the_loop(process, field, value, identity):
    stored = process.stored(field, value, identity)
    assert process.checked(field, stored, identity) == value
    assert process.read(field, stored, identity) == value
    assert process.checked_values == 0


def parts(field: Field, stored: Any) -> list[bytes]:
    return [bytes(stored)] if field is not INSURANCE else [bytes(stored["t"]), bytes(stored["c"])]


def joined(pieces: list[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else {"t": pieces[0], "c": pieces[1]}


PROCESS = Process()
"""Shared by the examples of a property, whose sessions are therefore known."""


@given(
    st.sampled_from(PATIENTS.fields),
    st.sampled_from(COMPARABLE),
    st.integers(0, 1),
    st.integers(0, 200),
    st.integers(0, 255),
    st.integers(0, 40),
    st.sampled_from([sealing.SUBTYPE, sealing.SUBTYPE, 0, 0x80]),
    st.sampled_from([1, 1, 2, "1", None, 2**70, 1.5]),
    st.sampled_from([*PATIENTS.fields, None]),
)
def test_altered_or_moved_value_is_read_as_the_checked_way_reads_it(  # noqa: PLR0917 - generated
    field, value, piece, at, bits, cut, subtype, identity, other
):
    stored = PROCESS.stored(field, value)
    assert PROCESS.checked(field, stored) == value
    pieces = [bytearray(one) for one in parts(field, stored)]
    chosen = pieces[piece % len(pieces)]
    chosen[at % len(chosen)] ^= bits
    del chosen[len(chosen) - cut :]
    changed = joined([Binary(bytes(one), subtype) for one in pieces])
    where = other or field
    PROCESS.checked_values = 0
    expected = outcome(lambda: PROCESS.checked(where, changed, identity))
    assert outcome(lambda: PROCESS.read(where, changed, identity)) == expected
    intact = (bits, cut, subtype, identity) == (0, 0, sealing.SUBTYPE, 1) and where is field
    assert (PROCESS.checked_values == 0) is intact


@pytest.mark.parametrize("field", [DIAGNOSIS, INSURANCE, NOTE])
def test_value_in_another_form_is_read_as_the_checked_way_reads_it(process, field):
    randomised, deterministic = process.stored(DIAGNOSIS, "flu"), process.stored(INSURANCE, "A-1")
    sealed, tag = deterministic["c"], deterministic["t"]
    other = process.stored(INSURANCE, "A-2")
    for one in (
        "flu",
        1,
        b"",
        [],
        {},
        bytes(randomised),
        [randomised],
        {"t": tag},
        {"c": sealed},
        {"t": tag, "c": sealed, "x": 1},
        {"t": sealed, "c": tag},
        {"t": other["t"], "c": sealed},
        {"t": Binary(bytes(tag), 0), "c": sealed},
        {"t": bytes(tag), "c": sealed},
        {"t": tag, "c": bytes(sealed)},
        {"t": tag, "c": None},
        {"t": tag, "c": "text"},
        {"t": None, "c": sealed},
        {"a": tag, "c": sealed},
        Binary(values.BYTES_PREFIX[1] + bytes(tag) + bytes(sealed)[6:], sealing.SUBTYPE),
        sealed,
        randomised,
        deterministic,
    ):
        assert outcome(lambda one=one: process.read(field, one)) == outcome(lambda one=one: process.checked(field, one))


def test_cipher_is_known_after_a_checked_value_only(process):
    stored = process.stored(DIAGNOSIS, "flu")
    assert process.read(DIAGNOSIS, stored) == "flu"
    assert process.checked_values == 1
    assert process.read(DIAGNOSIS, stored) == "flu"
    assert process.checked_values == 1


def test_cipher_is_used_for_its_time(process):
    stored = process.stored(DIAGNOSIS, "flu")
    process.checked(DIAGNOSIS, stored)
    process.source.up = False
    process.now += KEY_SECONDS / 2 - 1
    assert process.read(DIAGNOSIS, stored) == "flu"
    assert process.checked_values == 0
    process.now += KEY_SECONDS / 2 + 1
    with pytest.raises(KeysUnavailable):
        process.read(DIAGNOSIS, stored)


@pytest.mark.parametrize("field", [DIAGNOSIS, INSURANCE])
def test_rejection_ends_a_cipher_immediately(process, field):
    stored = process.stored(field, "flu")
    assert process.checked(field, stored) == "flu"
    process.source.refused = KeyUnwrapError("tenant_not_operational", "locked", ends=KeyErrorScope.ALL_KEYS)
    assert not process.columns.check_again()
    with pytest.raises(KeysUnavailable):
        process.read(field, stored)


@pytest.mark.parametrize("value", [*IDS, 2**63, -(2**63) - 1, 2**70])
def test_identities_have_the_encoding_of_a_row_part(value):
    part = b"o" + value.binary if isinstance(value, ObjectId) else value
    part = b"s\0" + part if isinstance(value, bytes) else part
    assert sealing.identity(value, CODEC) == values.row_part([part])


class _Observed(dict[str, Any]):
    """A document that calls a function when it is read."""

    when_read: Callable[[], object]

    def get(self, key: str, default: Any = None) -> Any:
        if key == "_id":
            self.when_read()
        return super().get(key, default)


def test_rejection_ends_a_cipher_within_a_long_reply(process):
    """A rejection applies after at most 1,000 more documents of the same reply."""
    stored = process.stored(DIAGNOSIS, "flu")
    process.checked(DIAGNOSIS, stored)
    read: list[int] = []

    def when_read() -> None:
        read.append(1)
        if len(read) == 10:
            process.source.refused = KeyUnwrapError("tenant_not_operational", "locked", ends=KeyErrorScope.ALL_KEYS)
            process.columns.check_again()

    documents = [_Observed(_id=1, diagnosis=stored) for _ in range(2500)]
    for one in documents:
        one.when_read = when_read
    request = Request(PATIENTS, process.keys, CODEC, Count(UsageReporter(lambda _: 60.0)))
    with pytest.raises(KeysUnavailable):
        ReplyDecryptor(request, Documents.ORIGINAL).decrypted({"cursor": {"firstBatch": documents}})
    assert 10 < len(read) <= 1001
