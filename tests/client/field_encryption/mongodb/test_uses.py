"""Usage reports of a program on MongoDB: encrypted values by field, and the time of their commands."""

from typing import Any

import pytest
from pymongo import InsertOne
from pymongo.errors import PyMongoError

from tests.client.field_encryption.mongodb.stand import Stand


def counted(stand: Stand) -> dict[str, list[int]]:
    return {name.removeprefix(f"mongodb:{stand.name}."): sums for name, sums in stand.uses._sums().items()}


def test_values_are_counted_by_field_and_commands_by_their_time(stand: Stand, db: Any) -> None:
    stand.protect("patients", diagnosis="randomised", insurance="deterministic", never="randomised")
    patients = db.patients
    patients.insert_one({"_id": 1, "diagnosis": "flu", "insurance": "A-1", "age": 3})
    patients.insert_many([{"_id": 2, "diagnosis": "flu"}, {"_id": 3, "diagnosis": "flu"}])
    patients.bulk_write([InsertOne({"_id": 4, "diagnosis": "flu"})])
    db.others.insert_one({"diagnosis": "flu"})
    found = counted(stand)
    assert found.keys() == {"patients.diagnosis", "patients.insurance"}
    # A type, a length, the text and its end: as BSON writes "flu".
    assert found["patients.diagnosis"][:2] == [4, 4 * 9]
    assert (found["patients.diagnosis"][3], found["patients.insurance"][3]) == (3, 1)
    assert len(list(patients.find())) == 4
    assert patients.find_one({"insurance": "A-1"}, {"insurance": 1}) is not None
    found = counted(stand)
    assert (found["patients.diagnosis"][0], found["patients.insurance"][0]) == (8, 3)
    for _, _, spent, requests, lasted in found.values():
        assert requests
        assert 0 < spent < lasted


def test_plain_value_is_counted_separately(stand: Stand, db: Any) -> None:
    stand.protect("patients", diagnosis="randomised+")
    with stand.plain() as database:
        database.patients.insert_one({"_id": 1, "diagnosis": "flu"})
    assert db.patients.find_one() == {"_id": 1, "diagnosis": "flu"}
    assert counted(stand) == {"patients.diagnosis#plain": [1, 0, 0, 0, 0]}


def test_rejected_command_is_not_counted(stand: Stand, db: Any) -> None:
    stand.keys.up = False
    with pytest.raises(PyMongoError, match="column_key_unavailable"):
        db.patients.insert_one({"_id": 1, "diagnosis": "flu"})
    assert counted(stand) == {}
