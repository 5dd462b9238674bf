"""Validation of protected fields, and the stated effects of a change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.services import FieldInvalid
from core.protected_fields import consequences, parse_field, store_of
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind

PG, MONGO = Store.POSTGRESQL, Store.MONGODB


def parsed(store: Store, place: str, field: str) -> ProtectedField:
    return parse_field(store, place, field, Mode.RANDOMISED, plaintext_allowed=False)


@pytest.mark.parametrize(
    ("store", "place", "field"),
    [
        (PG, "public.patients", "diagnosis"),
        (PG, "Klinik.Patientinnen und Patienten", "Größe"),
        (PG, f"{'s' * 63}.t", "c" * 63),
        (MONGO, "clinic.patients", "contact.phone"),
        (MONGO, "clinic.patients.archive", "history.0.note"),
    ],
)
def test_parse_field_accepts_valid_database_names(store: Store, place: str, field: str) -> None:
    found = parsed(store, place, field)
    assert (found.store, found.place, found.field) == (store, place, field)
    assert found.name == f"{store}:{place}.{field}"


@pytest.mark.parametrize(
    ("store", "place", "field", "expected"),
    [
        (PG, "patients", "diagnosis", "write public.patients if its schema is public"),
        (PG, "", "diagnosis", "write schema.table"),
        (PG, "public.patients", " diagnosis", "spaces around it"),
        (PG, "public.patients", "a\nb", "non-printable"),
        (PG, "public.", "diagnosis", "a name is missing"),
        (PG, "db.public.patients", "diagnosis", "cannot be protected: rename them"),
        (PG, "public.patients", "a.b", "cannot be protected: rename them"),
        (PG, 'public."Patients"', "diagnosis", "unquoted"),
        (PG, f"public.{'ä' * 32}", "diagnosis", "at most 63 bytes"),
        (PG, "pg_catalog.pg_class", "relname", "belongs to the database"),
        (PG, "openkcm.column_key", "wrapped", "belongs to the database or to OpenKCM"),
        (PG, f"{'s' * 63}.{'t' * 63}", "c" * 63, "shorten"),
        (MONGO, "patients", "phone", "write database.collection"),
        (MONGO, "cli nic.patients", "phone", "contains an invalid character"),
        (MONGO, "clinic.system.users", "phone", "belongs to the server"),
        (MONGO, "admin.users", "phone", "belongs to the server"),
        (MONGO, f"clinic.{'c' * 120}", "phone", "at most 63 bytes, with its collection 120"),
        (MONGO, "clinic.patients", "contact..phone", "a name is missing in the path"),
        (MONGO, "clinic.patients", "contact.$phone", "begins with $"),
        (MONGO, "clinic.patients", "_id", "protect another field"),
        (MONGO, "clinic.patients", "_id.part", "protect another field"),
    ],
)
def test_parse_field_rejects_invalid_names_with_a_hint(store: Store, place: str, field: str, expected: str) -> None:
    with pytest.raises(FieldInvalid) as rejected:
        parsed(store, place, field)
    assert expected in f"{rejected.value.message}; {rejected.value.hint}"


@given(st.sampled_from(Store), st.text(max_size=200), st.text(max_size=200))
def test_parse_field_returns_bounded_names_or_raises(store: Store, place: str, field: str) -> None:
    try:
        found = parsed(store, place, field)
    except FieldInvalid:
        return
    assert len(found.name) <= 180
    assert found.name.isprintable() or not any(ord(one) < 32 for one in found.name)


def test_store_of_follows_the_kind_of_the_service() -> None:
    assert [store_of(kind) for kind in ServiceKind] == [MONGO, PG, None]


RANDOMISED = parse_field(PG, "public.patients", "insurance", Mode.RANDOMISED, plaintext_allowed=False)
PLAIN_ALLOWED = parse_field(PG, "public.patients", "insurance", Mode.RANDOMISED, plaintext_allowed=True)
SEARCHABLE = parse_field(PG, "public.patients", "insurance", Mode.DETERMINISTIC, plaintext_allowed=False)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, RANDOMISED, ["encrypt new values", "cannot read existing values"]),
        (None, PLAIN_ALLOWED, ["encrypt new values", "with write access"]),
        (None, SEARCHABLE, ["encrypt new values", "cannot read existing values", "which values are equal"]),
        (RANDOMISED, SEARCHABLE, ["which values are equal", "does not find existing values"]),
        (SEARCHABLE, RANDOMISED, ["can no longer search", "still show which of them are equal"]),
        (RANDOMISED, PLAIN_ALLOWED, ["with write access"]),
        (PLAIN_ALLOWED, RANDOMISED, ["verify first that none is left"]),
        (RANDOMISED, None, ["store new values unencrypted", "as ciphertext"]),
        (RANDOMISED, RANDOMISED, []),
        (None, None, []),
    ],
)
def test_consequences_state_the_effects_of_a_change(
    before: ProtectedField | None, after: ProtectedField | None, expected: list[str]
) -> None:
    sentences = consequences(before, after)
    assert len(sentences) == len(expected)
    for sentence, part in zip(sentences, expected, strict=True):
        assert part in sentence
