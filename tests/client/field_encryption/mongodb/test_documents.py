"""Values are encrypted when stored and restored when read, through every interface of pymongo."""

import datetime as dt
import re
from contextlib import suppress
from uuid import UUID

import bson
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions, TypeCodec, TypeRegistry
from bson.raw_bson import RawBSONDocument
from bson.son import SON
from pymongo import (
    AsyncMongoClient,
    DeleteOne,
    InsertOne,
    MongoClient,
    ReplaceOne,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
)
from pymongo.errors import PyMongoError

from openkcm.field_encryption.mongodb.encryption import SUBTYPE
from tests.client.field_encryption.stand import run_in_child

ANN = {"_id": 1, "name": "Ann", "diagnosis": "flu", "insurance": "A-1", "address": {"street": "Main 1", "city": "Ulm"}}
BOB = {"_id": 2, "name": "Bob", "diagnosis": None, "insurance": "B-2", "address": {"city": "Bern"}}
CID = {"_id": 3, "name": "Cid", "insurance": "A-1"}


def is_sealed(value) -> bool:
    return isinstance(value, Binary) and value.subtype == SUBTYPE and value.startswith(b"\0okcm\1")


@pytest.fixture
def three(patients):
    patients.insert_many([dict(one) for one in (ANN, BOB, CID)])
    return patients


def test_stored_values_are_ciphertext_and_read_values_are_plain(stand, patients):
    document = {key: value for key, value in ANN.items() if key != "_id"}
    inserted_id = patients.insert_one(document).inserted_id
    assert document["_id"] == inserted_id  # the application's document is changed only as pymongo itself does
    assert document["diagnosis"] == "flu"
    assert patients.find_one({"_id": inserted_id}) == ANN | {"_id": inserted_id}
    with stand.plain() as plain:
        stored = plain.patients.find_one()
        assert (stored["name"], stored["address"]["city"]) == ("Ann", "Ulm")
        assert is_sealed(stored["diagnosis"])
        assert is_sealed(stored["address"]["street"])
        assert stored["insurance"].keys() == {"t", "c"}
        assert (len(stored["insurance"]["t"]), is_sealed(stored["insurance"]["c"])) == (16, True)
        raw = plain.get_collection("patients", codec_options=CodecOptions(RawBSONDocument)).find_one().raw
        # As BSON strings: ciphertext may contain three document bytes by chance.
        assert not any(bson.encode({"": word})[5:-1] in raw for word in ("flu", "A-1", "Main 1"))
        assert plain["openkcm.column_key"].count_documents({}) == 4


TYPES = [
    "text",
    "",
    "\u0000 and ü",
    7,
    Int64(7),
    2**40,
    -1.5,
    True,
    b"\0\xff",
    Binary(b"x", 128),
    dt.datetime(2026, 1, 2, 3, 4, 5, 678000),  # noqa: DTZ001 - as BSON has dates
    ObjectId("0123456789abcdef01234567"),
    Decimal128("1.20"),
    Timestamp(1, 2),
    Regex("^a", "i"),
    Code("f()"),
    MinKey(),
    MaxKey(),
    [1, {"a": [None, "x"]}],
    {"nested": {"deep": 1}, "list": [1.0, 2]},
    {},
]


def test_every_type_is_restored_exactly(patients):
    patients.insert_many([{"_id": n, "diagnosis": value, "plain": value} for n, value in enumerate(TYPES)])
    read = list(patients.find().sort("_id"))
    assert [one["diagnosis"] for one in read] == TYPES
    assert [type(one["diagnosis"]) for one in read] == [type(one["plain"]) for one in read]


IDS = [
    ObjectId("65f0c0ffee65f0c0ffee65f0"),
    "text",
    5,
    2**50,
    b"raw",
    Binary(b"sixteen bytes 00", 4),
    Binary(b"x", 128),
]


def test_every_supported_kind_of_id(patients):
    for identity in IDS:
        patients.insert_one({"_id": identity, "diagnosis": "flu"})
        patients.update_one({"_id": identity}, {"$set": {"insurance": "A"}})
        assert patients.find_one({"insurance": "A"}) == {"_id": identity, "diagnosis": "flu", "insurance": "A"}
        patients.delete_one({"_id": identity})


def test_integer_id_is_independent_of_its_width(patients):
    patients.insert_one({"_id": Int64(5), "diagnosis": "flu"})
    patients.update_one({"_id": 5}, {"$set": {"diagnosis": "cold"}})
    assert patients.find_one()["diagnosis"] == "cold"


def test_uuids_follow_the_representation_of_the_application(stand):
    one = UUID("12345678123456781234567812345678")
    for representation in ("standard", "pythonLegacy"):
        with MongoClient(stand.address, uuidRepresentation=representation) as client:
            patients = client[stand.name].patients
            patients.insert_one({"_id": one, "diagnosis": one, "insurance": one})
            assert patients.find_one({"insurance": one}) == {"_id": one, "diagnosis": one, "insurance": one}
            patients.drop()


def test_updates(three):
    three.update_one({"_id": 1}, {"$set": {"diagnosis": "cold", "name": "Anna"}, "$inc": {"visits": 1}})
    three.update_one({"_id": {"$eq": 2}}, {"$set": {"address": {"street": "Side 2", "city": "Bern"}}})
    three.update_one({"$and": [{"_id": 3}, {"name": "Cid"}]}, {"$set": {"address.street": "Back 3"}})
    three.update_many({}, {"$unset": {"insurance": ""}, "$set": {"seen": True}})
    assert list(three.find()) == [
        {"_id": 1, "name": "Anna", "diagnosis": "cold", "address": ANN["address"], "visits": 1, "seen": True},
        {"_id": 2, "name": "Bob", "diagnosis": None, "address": {"street": "Side 2", "city": "Bern"}, "seen": True},
        {"_id": 3, "name": "Cid", "address": {"street": "Back 3"}, "seen": True},
    ]
    three.update_many({"name": "Anna"}, {"$set": {"diagnosis": None}})
    three.replace_one({"_id": 2}, {"diagnosis": "ok"})
    three.replace_one({"name": "Cid"}, {"_id": 3, "diagnosis": "fine"})
    assert [one["diagnosis"] for one in three.find()] == [None, "ok", "fine"]
    assert three.delete_one({"_id": 3}).deleted_count == 1


def test_updates_that_return_the_document(three):
    after = ReturnDocument.AFTER
    change = {"$set": {"diagnosis": "cold"}, "$inc": {"changes": 1}}
    changed = three.find_one_and_update({"_id": 1}, change, return_document=after)
    assert changed == ANN | {"diagnosis": "cold", "changes": 1}
    assert three.find_one_and_update({"_id": 1}, {"$set": {"diagnosis": "x"}}, {"_id": 0, "diagnosis": 1}) == {
        "diagnosis": "cold"
    }
    assert three.find_one_and_replace({"_id": 2}, {"diagnosis": "y"}, return_document=after) == {
        "_id": 2,
        "diagnosis": "y",
    }
    assert three.find_one_and_delete({"insurance": "B-2"}) is None
    assert three.find_one_and_delete({"_id": 2}) == {"_id": 2, "diagnosis": "y"}
    assert three.find_one_and_delete({"_id": 99}) is None


def test_upserts(patients):
    patients.update_one({"_id": 7}, {"$set": {"diagnosis": "flu"}}, upsert=True)
    assert patients.find_one() == {"_id": 7, "diagnosis": "flu"}
    patients.replace_one({"_id": 8}, {"diagnosis": "cold"}, upsert=True)
    patients.replace_one({"name": "x"}, {"_id": 9, "diagnosis": "bad"}, upsert=True)
    assert [one["diagnosis"] for one in patients.find()] == ["flu", "cold", "bad"]
    change = {"$setOnInsert": {"diagnosis": "new"}, "$inc": {"visits": 1}}
    new_id = patients.update_one({"insurance": "C-3"}, change, upsert=True).upserted_id
    assert patients.update_one({"insurance": "C-3"}, change, upsert=True).upserted_id is None
    # The document is created from the condition, of which MongoDB received only the tag.
    assert patients.find_one({"_id": new_id}) == {
        "_id": new_id,
        "insurance": "C-3",
        "diagnosis": "new",
        "visits": 2,
    }
    named = {"_id": 10, "insurance": {"$in": ["D-4"]}}
    patients.update_one(named, {"$set": {"name": "Dan"}}, upsert=True)
    assert patients.find_one({"insurance": "D-4"}) == {"_id": 10, "insurance": "D-4", "name": "Dan"}


VISIT = [{"$set": {"visits": {"$add": [{"$ifNull": ["$visits", 0]}, 1]}}}]
PIPELINE_UPSERTS = [
    lambda p, condition: p.update_one(condition, VISIT, upsert=True),
    lambda p, condition: p.update_many(condition, VISIT, upsert=True),
    lambda p, condition: p.find_one_and_update(condition, VISIT, upsert=True),
    lambda p, condition: p.bulk_write([UpdateOne(condition, VISIT, upsert=True)]),
    lambda p, condition: p.bulk_write([UpdateMany(condition, VISIT, upsert=True)]),
    lambda p, condition: p.database.client.bulk_write(
        [UpdateOne(condition, VISIT, upsert=True, namespace=p.full_name)]
    ),
    lambda p, condition: p.database.command(
        "update", "patients", updates=[{"q": condition, "u": VISIT, "upsert": True, "multi": False}]
    ),
]


@pytest.mark.parametrize("identity", [None, 5])
@pytest.mark.parametrize("mode", ["deterministic", "deterministic+"])
def test_pipeline_upsert_stores_the_values_of_its_condition(stand, patients, mode, identity):
    stand.protect("patients", insurance=mode, card="deterministic", address__zip="deterministic")
    condition = {"insurance": "C-3", "$and": [{"card": {"$in": [7]}}], "address.zip": "89", "address.city": "Ulm"}
    condition |= {"name": "Cid"} if identity is None else {"_id": identity}
    for number, upsert in enumerate(PIPELINE_UPSERTS):
        patients.delete_many({})
        upsert(patients, condition)
        [created] = patients.find()
        expected = {"insurance": "C-3", "card": 7, "address": {"zip": "89", "city": "Ulm"}}
        expected |= {"name": "Cid"} if identity is None else {}
        assert created == expected | {"_id": created["_id"], "visits": 1}, number
        assert created["_id"] == identity or (identity is None and isinstance(created["_id"], ObjectId))
        with stand.plain() as plain:
            stored = plain.patients.find_one()
        assert all(one.keys() == {"t", "c"} for one in (stored["insurance"], stored["card"], stored["address"]["zip"]))
        upsert(patients, condition)
        assert list(patients.find()) == [created | {"visits": 2}]
        with stand.plain() as plain:  # an existing document keeps its values
            assert plain.patients.find_one() == stored | {"visits": 2}


async def test_async_pipeline_upsert_stores_the_values_of_its_condition(stand):
    async with AsyncMongoClient(stand.address) as client:
        patients = client[stand.name].patients
        for _ in range(2):
            await patients.update_one({"insurance": "C-3"}, VISIT, upsert=True)
        assert [one async for one in patients.find({}, {"_id": 0})] == [{"insurance": "C-3", "visits": 2}]


def test_pipeline_upsert_does_not_change_an_existing_plain_value(stand, patients):
    with stand.plain() as plain:
        plain.patients.insert_many([{"_id": 1, "insurance": "A-1"}, {"_id": 2, "insurance": ["B-2", "C-3"]}])
    stand.protect("patients", insurance="deterministic+")
    for card in ("A-1", "C-3"):
        patients.update_one({"insurance": card}, VISIT, upsert=True)
    with stand.plain() as plain:
        assert list(plain.patients.find()) == [
            {"_id": 1, "insurance": "A-1", "visits": 1},
            {"_id": 2, "insurance": ["B-2", "C-3"], "visits": 1},
        ]


def test_pipeline_upsert_of_a_null_or_removed_value(patients):
    patients.update_one({"_id": 1, "insurance": None, "diagnosis": None}, VISIT, upsert=True)
    patients.update_one({"_id": 2, "insurance": "A-1"}, [{"$unset": "insurance"}, *VISIT], upsert=True)
    patients.update_one({"_id": 3, "insurance": "A-1"}, {"$unset": {"insurance": ""}, "$inc": {"n": 1}}, upsert=True)
    assert list(patients.find()) == [
        {"_id": 1, "insurance": None, "diagnosis": None, "visits": 1},
        {"_id": 2, "visits": 1},
        {"_id": 3, "n": 1},
    ]


@pytest.mark.parametrize("also", [{"_id": {"$in": [5]}}, {"$or": [{"_id": 5}]}, {"_id": {"x": 5}}, {"_id.x": 5}])
def test_pipeline_upsert_never_binds_a_value_to_another_id(patients, also):
    with suppress(PyMongoError):
        patients.update_one({"insurance": "A-1"} | also, VISIT, upsert=True)
    assert all(one["insurance"] == "A-1" for one in patients.find())


def test_replacing_upsert_stores_no_value_of_its_condition(patients):
    patients.replace_one({"insurance": "A-1"}, {"name": "Ann"}, upsert=True)
    patients.find_one_and_replace({"insurance": "B-2"}, {"name": "Bob"}, upsert=True)
    patients.bulk_write([ReplaceOne({"insurance": "C-3"}, {"name": "Cid"}, upsert=True)])
    assert [one["name"] for one in patients.find({}, {"_id": 0})] == ["Ann", "Bob", "Cid"]
    assert patients.count_documents({"insurance": {"$exists": True}}) == 0


def test_equality(three):
    def names(condition) -> str:
        return "".join(one["name"][0] for one in three.find(condition).sort("_id"))

    assert names({"insurance": "A-1"}) == "AC"
    assert names({"insurance": {"$eq": "A-1"}, "name": "Cid"}) == "C"
    assert names({"insurance": {"$ne": "A-1"}}) == "B"
    assert names({"insurance": {"$in": ["B-2", "C-3"]}}) == "B"
    assert names({"insurance": {"$nin": ["B-2", "C-3"]}}) == "AC"
    assert names({"$or": [{"insurance": "B-2"}, {"name": "Cid"}]}) == "BC"
    assert names({"$nor": [{"insurance": "A-1"}]}) == "B"
    assert names({"insurance": "A-1", "$and": [{"insurance": {"$ne": "B-2"}}]}) == "AC"
    assert names({"insurance": {"$ne": "A-1", "$exists": True}}) == "B"
    assert names({"diagnosis": None}) == "BC"
    assert names({"diagnosis": {"$ne": None}}) == "A"
    assert names({"diagnosis": {"$exists": False}}) == "C"
    three.update_one({"_id": 3}, {"$unset": {"insurance": ""}})
    assert names({"insurance": {"$in": ["B-2", None]}}) == "BC"
    assert names({"insurance": {"$nin": ["B-2", None]}}) == "A"
    assert three.count_documents({"insurance": "A-1"}) == 1
    assert three.distinct("name", {"insurance": "A-1"}) == ["Ann"]
    assert three.delete_many({"insurance": "A-1"}).deleted_count == 1


def test_equality_of_numbers_is_independent_of_their_width(patients):
    patients.insert_many([{"_id": 1, "insurance": 5}, {"_id": 2, "insurance": Int64(5)}, {"_id": 3, "insurance": "5"}])
    assert [one["_id"] for one in patients.find({"insurance": 5})] == [1, 2]


def test_index_is_created_on_the_tag(patients):
    patients.create_index("insurance", unique=True)
    patients.create_index([("insurance", 1), ("name", -1)], name="both")
    patients.insert_one({"_id": 1, "insurance": "A-1"})
    with pytest.raises(Exception, match="E11000"):
        patients.insert_one({"_id": 2, "insurance": "A-1"})
    patients.insert_one({"_id": 2, "insurance": "B-2"})
    plan = patients.find({"insurance": "A-1"}).explain()["queryPlanner"]["winningPlan"]
    assert plan["inputStage"]["keyPattern"] in ({"insurance.t": 1}, {"insurance.t": 1, "name": -1})
    assert patients.find({"insurance": "B-2"}).hint([("insurance", 1)])[0]["_id"] == 2


def test_projections(three):
    def one(projection) -> dict:
        return three.find_one({"_id": 1}, projection)

    assert one({"_id": 0}) == {key: value for key, value in ANN.items() if key != "_id"}
    assert one({"_id": 0, "diagnosis": 1}) == {"diagnosis": "flu"}
    assert one({"_id": False, "address": True}) == {"address": ANN["address"]}
    assert one({"_id": 0, "address.street": 1}) == {"address": {"street": "Main 1"}}
    assert one({"_id": 0, "address": {"street": 1}}) == {"address": {"street": "Main 1"}}
    assert one({"_id": 0, "name": 1}) == {"name": "Ann"}
    assert one(["insurance"]) == {"_id": 1, "insurance": "A-1"}
    assert one({"diagnosis": 0, "insurance": 0, "address": 0}) == {"_id": 1, "name": "Ann"}


def test_many_documents_in_small_batches(patients):
    rows = [{"_id": n, "diagnosis": str(n), "insurance": n % 3} for n in range(50)]
    patients.insert_many(rows)
    assert list(patients.find().batch_size(7)) == rows
    without = [{"diagnosis": str(n)} for n in range(50)]
    assert list(patients.find({}, {"_id": 0, "diagnosis": 1}).batch_size(7)) == without
    piped = patients.aggregate([{"$sort": {"_id": 1}}, {"$project": {"_id": 0, "diagnosis": 1}}], batchSize=7)
    assert list(piped) == without
    assert [one["_id"] for one in patients.aggregate([{"$match": {"insurance": 1}}], batchSize=2)] == [
        n for n in range(50) if n % 3 == 1
    ]


def test_aggregations(three):
    def run(*stages: dict) -> list:
        return list(three.aggregate(list(stages)))

    assert run({"$match": {"insurance": "B-2"}}) == [BOB]
    assert run({"$group": {"_id": "$address.city", "n": {"$sum": 1}}}, {"$sort": {"_id": 1}}) == [
        {"_id": None, "n": 1},
        {"_id": "Bern", "n": 1},
        {"_id": "Ulm", "n": 1},
    ]
    assert run({"$addFields": {"long": {"$concat": ["$name", "!"]}}}, {"$limit": 1}) == [ANN | {"long": "Ann!"}]
    assert run({"$project": {"name": 1, "n": {"$literal": "$diagnosis"}}}, {"$limit": 1}) == [
        {"_id": 1, "name": "Ann", "n": "$diagnosis"}
    ]
    assert run({"$match": {"insurance": "A-1"}}, {"$count": "n"}) == [{"n": 2}]
    assert run({"$group": {"_id": 1, "diagnosis": {"$max": "$name"}}}) == [{"_id": 1, "diagnosis": "Cid"}]


def test_bulk_writes(stand, patients):
    patients.bulk_write(
        [
            InsertOne({"_id": 1, "diagnosis": "flu", "insurance": "A"}),
            InsertOne({"_id": 2, "diagnosis": "cold", "insurance": "B"}),
            UpdateOne({"_id": 1}, {"$set": {"diagnosis": "ok"}}),
            ReplaceOne({"_id": 3}, {"diagnosis": "new"}, upsert=True),
            DeleteOne({"insurance": "B"}),
            UpdateOne({"insurance": "A"}, {"$set": {"name": "Ann"}}),
        ],
        ordered=True,
    )
    assert list(patients.find()) == [
        {"_id": 1, "diagnosis": "ok", "insurance": "A", "name": "Ann"},
        {"_id": 3, "diagnosis": "new"},
    ]
    patients.insert_many([{"_id": n, "diagnosis": "x" * 1000} for n in range(10, 3000)], ordered=False)
    assert patients.count_documents({}) == 2992
    patients.with_options(write_concern=type(patients.write_concern)(w=0)).insert_many([{"_id": 5, "diagnosis": "w0"}])
    assert patients.find_one({"_id": 5}) == {"_id": 5, "diagnosis": "w0"}
    with stand.plain() as plain:
        assert all(is_sealed(one["diagnosis"]) for one in plain.patients.find())


def test_raw_commands(stand, three):
    db = three.database
    db.command({"insert": "patients", "documents": [{"_id": 4, "diagnosis": "raw"}]})
    assert db.command("find", "patients", filter={"_id": 4})["cursor"]["firstBatch"] == [{"_id": 4, "diagnosis": "raw"}]
    assert [one["name"] for one in db.cursor_command("find", "patients", filter={"insurance": "A-1"})] == ["Ann", "Cid"]
    with stand.plain() as plain:
        assert is_sealed(plain.patients.find_one({"_id": 4})["diagnosis"])


def test_documents_of_other_classes(three):
    son = three.with_options(codec_options=CodecOptions(SON))
    assert type(son.find_one({"_id": 1})) is SON
    assert son.find_one({"_id": 1})["address"].to_dict() == ANN["address"]
    raw = three.with_options(codec_options=CodecOptions(RawBSONDocument))
    assert isinstance(raw.find_one({"_id": 1}), RawBSONDocument)
    assert dict(raw.find_one({"_id": 1}))["diagnosis"] == "flu"
    assert dict(next(raw.aggregate([{"$match": {"_id": 1}}])))["insurance"] == "A-1"
    raw.insert_one(
        RawBSONDocument(raw.find_one({"_id": 2}).raw.replace(b"B-2", b"D-4").replace(b"\x02\0\0\0", b"\x07\0\0\0", 1))
    )

    class Shout(TypeCodec):
        python_type, bson_type = type("Shouted", (), {}), str

        def transform_python(self, value) -> str:
            return str(value)

        def transform_bson(self, value) -> str:
            return value.upper()

    loud = three.with_options(codec_options=CodecOptions(type_registry=TypeRegistry([Shout()])))
    assert loud.find_one({"_id": 1})["diagnosis"] == "FLU"
    assert list(loud.aggregate([{"$group": {"_id": "$address.city"}}, {"$sort": {"_id": -1}}, {"$limit": 1}])) == [
        {"_id": "ULM"}
    ]
    assert loud.find_one({"_id": 1}, {"_id": 0, "name": 1}) == {"name": "ANN"}
    aware = three.with_options(
        codec_options=CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)
    )
    aware.update_one({"_id": 1}, {"$set": {"diagnosis": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}})
    assert aware.find_one({"_id": 1})["diagnosis"].tzinfo is not None


def test_a_transaction(three):
    with three.database.client.start_session() as session:
        with session.start_transaction():
            three.insert_one({"_id": 4, "diagnosis": "flu"}, session=session)
            three.update_one({"_id": 1}, {"$set": {"diagnosis": "cold"}}, session=session)
            assert three.find_one({"_id": 4}, session=session)["diagnosis"] == "flu"
        assert three.find_one({"_id": 1})["diagnosis"] == "cold"
        with session.start_transaction():
            three.update_one({"_id": 1}, {"$set": {"diagnosis": "x"}}, session=session)
            session.abort_transaction()
    assert three.find_one({"_id": 1})["diagnosis"] == "cold"


async def test_async(stand):
    async with AsyncMongoClient(stand.address) as client:
        patients = client[stand.name].patients
        await patients.insert_one({"_id": 0, "diagnosis": "flu", "insurance": "A"})
        await patients.insert_many([{"_id": n, "diagnosis": str(n)} for n in range(1, 9)])
        await patients.bulk_write([UpdateOne({"_id": 1}, {"$set": {"diagnosis": "one"}})])
        assert [one["diagnosis"] async for one in patients.find().batch_size(3)] == ["flu", "one", *"2345678"]
        assert (await patients.find_one({"insurance": "A"}))["_id"] == 0
        changed = await patients.find_one_and_update({"_id": 2}, {"$set": {"diagnosis": "two"}}, return_document=True)
        assert changed["diagnosis"] == "two"
        cursor = await patients.aggregate([{"$match": {"_id": 2}}, {"$project": {"_id": 0}}])
        assert [one async for one in cursor] == [{"diagnosis": "two"}]
    with stand.plain() as plain:
        assert all(is_sealed(one["diagnosis"]) for one in plain.patients.find())


def test_a_forked_process_encrypts_too(stand, patients):
    patients.insert_one({"_id": 1, "diagnosis": "a"})

    def insert() -> bytes:
        with MongoClient(stand.address) as own:
            own[stand.name].patients.insert_one({"_id": 2, "diagnosis": "b"})
        return b"inserted"

    assert run_in_child(insert) == b"inserted"
    assert [one["diagnosis"] for one in patients.find()] == ["a", "b"]


def test_unprotected_collection_is_not_changed(stand, db):
    db.notes.insert_many([{"_id": 1, "diagnosis": "flu"}, {"_id": 2, "diagnosis": "cold"}])
    assert [one["_id"] for one in db.notes.find({"diagnosis": re.compile("^f")}).sort("diagnosis")] == [1]
    with stand.plain() as plain:
        assert plain.notes.find_one() == {"_id": 1, "diagnosis": "flu"}
