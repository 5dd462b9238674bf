"""The practice's own tests, independent of OpenKCM."""

import asyncio
import datetime as dt

import practice
import pytest
from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError


@pytest.fixture
def client():
    with practice.connect() as connection:
        yield connection


@pytest.fixture
def patients(client):
    return practice.begin(client)


def test_a_patient_is_admitted_and_found(patients):
    day = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)
    findings = {"since": day, "values": [37.5, 38.1], "scan": b"\x89PNG"}
    number = practice.admit(patients, "Ann", findings, "A-1", address={"street": "Main 1", "city": "Ulm"})
    assert practice.insured(patients, "A-1") == {
        "_id": number,
        "name": "Ann",
        "diagnosis": findings,
        "insurance": "A-1",
        "address": {"street": "Main 1", "city": "Ulm"},
    }
    assert practice.insured(patients, "B-2") is None


def test_an_insurance_is_one_persons(patients):
    practice.admit(patients, "Ann", "flu", "A-1")
    with pytest.raises(DuplicateKeyError):
        practice.admit(patients, "Bob", "flu", "A-1")
    with pytest.raises(BulkWriteError) as refused:
        patients.insert_many([{"insurance": "B-2"}, {"insurance": "B-2"}, {"insurance": "C-3"}], ordered=False)
    assert refused.value.details["nInserted"] == 2
    assert [error["op"]["insurance"] for error in refused.value.details["writeErrors"]] == ["B-2"]


def test_many_patients_at_once(patients):
    rows = [{"_id": number, "diagnosis": f"d{number}", "insurance": f"i{number}"} for number in range(300)]
    patients.insert_many(rows)
    assert list(patients.find().sort("_id").batch_size(50)) == rows
    done = patients.bulk_write(
        [
            UpdateOne({"_id": 0}, {"$set": {"diagnosis": "other"}}),
            InsertOne({"_id": 300, "diagnosis": "new"}),
            DeleteOne({"insurance": "i7"}),
        ]
    )
    assert (done.modified_count, done.inserted_count, done.deleted_count) == (1, 1, 1)
    assert [patients.find_one({"_id": number})["diagnosis"] for number in (0, 300)] == ["other", "new"]
    assert patients.count_documents({"insurance": {"$ne": "i3"}}) == 299


async def everything():
    async with practice.connect_async() as client:
        patients = client.practice.patients
        await patients.insert_one({"_id": 2, "diagnosis": "b"})
        await patients.update_one({"_id": 2}, {"$set": {"insurance": "B-2"}})
        return [one async for one in patients.find({}, {"name": 0}).sort("_id")]


def test_async(patients):
    patients.insert_one({"_id": 1, "name": "Ann", "diagnosis": "a"})
    assert asyncio.run(everything()) == [
        {"_id": 1, "diagnosis": "a"},
        {"_id": 2, "diagnosis": "b", "insurance": "B-2"},
    ]
