"""Names of fields are checked where they come in, and what a change means is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.services import FieldInvalid
from core.protected_fields import consequences, parse_field, store_of
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind

PG, MONGO = Store.POSTGRESQL, Store.MONGODB


def parsed(store: Store, place: str, field: str) -> ProtectedField:
    return parse_field(store, place, field, Mode.RANDOMISED, plain_allowed=False)


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
def test_what_databases_call_a_field_can_be_protected(store: Store, place: str, field: str) -> None:
    found = parsed(store, place, field)
    assert (found.store, found.place, found.field) == (store, place, field)
    assert found.name == f"{store}:{place}.{field}"


@pytest.mark.parametrize(
    ("store", "place", "field", "said"),
    [
        (PG, "patients", "diagnosis", "write public.patients if its schema is public"),
        (PG, "", "diagnosis", "write schema.table"),
        (PG, "public.patients", " diagnosis", "spaces around it"),
        (PG, "public.patients", "a\nb", "cannot be printed"),
        (PG, "public.", "diagnosis", "a name is missing"),
        (PG, "db.public.patients", "diagnosis", "cannot be protected: rename them"),
        (PG, "public.patients", "a.b", "cannot be protected: rename them"),
        (PG, 'public."Patients"', "diagnosis", "unquoted"),
        (PG, f"public.{'ä' * 32}", "diagnosis", "at most 63 bytes"),
        (PG, "pg_catalog.pg_class", "relname", "belongs to the database"),
        (PG, "openkcm.column_key", "wrapped", "belongs to the database or to OpenKCM"),
        (PG, f"{'s' * 63}.{'t' * 63}", "c" * 63, "shorten"),
        (MONGO, "patients", "phone", "write database.collection"),
        (MONGO, "cli nic.patients", "phone", "cannot have such characters"),
        (MONGO, "clinic.system.users", "phone", "belongs to the server"),
        (MONGO, "admin.users", "phone", "belongs to the server"),
        (MONGO, f"clinic.{'c' * 120}", "phone", "at most 63 bytes, and with its collection 120"),
        (MONGO, "clinic.patients", "contact..phone", "a name is missing in the path"),
        (MONGO, "clinic.patients", "contact.$phone", "begins with $"),
        (MONGO, "clinic.patients", "_id", "protect another field"),
        (MONGO, "clinic.patients", "_id.part", "protect another field"),
    ],
)
def test_what_is_no_field_says_what_to_do_next(store: Store, place: str, field: str, said: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        parsed(store, place, field)
    assert said in f"{refused.value.message}; {refused.value.hint}"


@given(st.sampled_from(Store), st.text(max_size=200), st.text(max_size=200))
def test_whatever_is_written_is_a_field_within_bounds_or_refused(store: Store, place: str, field: str) -> None:
    try:
        found = parsed(store, place, field)
    except FieldInvalid:
        return
    assert len(found.name) <= 180
    assert found.name.isprintable() or not any(ord(one) < 32 for one in found.name)


def test_the_store_is_that_of_the_service_where_it_has_one() -> None:
    assert [store_of(kind) for kind in ServiceKind] == [MONGO, PG, None]


RANDOMISED = parse_field(PG, "public.patients", "insurance", Mode.RANDOMISED, plain_allowed=False)
PLAIN_TOO = parse_field(PG, "public.patients", "insurance", Mode.RANDOMISED, plain_allowed=True)
SEARCHED = parse_field(PG, "public.patients", "insurance", Mode.DETERMINISTIC, plain_allowed=False)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (None, RANDOMISED, ["is encrypted", "is refused when it is read"]),
        (None, PLAIN_TOO, ["is encrypted", "whoever can write"]),
        (None, SEARCHED, ["is encrypted", "is refused when it is read", "which values are equal"]),
        (RANDOMISED, SEARCHED, ["which values are equal", "does not find values from before"]),
        (SEARCHED, RANDOMISED, ["programs that do are refused", "still show which of them are equal"]),
        (RANDOMISED, PLAIN_TOO, ["whoever can write"]),
        (PLAIN_TOO, RANDOMISED, ["see first that none is left"]),
        (RANDOMISED, None, ["is stored plain", "as ciphertext"]),
        (RANDOMISED, RANDOMISED, []),
        (None, None, []),
    ],
)
def test_what_a_change_means_is_said(
    before: ProtectedField | None, after: ProtectedField | None, said: list[str]
) -> None:
    sentences = consequences(before, after)
    assert len(sentences) == len(said)
    for sentence, part in zip(sentences, said, strict=True):
        assert part in sentence
