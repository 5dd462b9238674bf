"""Commands that would store plaintext, or compute with ciphertext, are rejected before they are sent."""

import re

import pytest
from bson import Regex
from pymongo import AsyncMongoClient, InsertOne, MongoClient, ReplaceOne, UpdateMany, UpdateOne, monitoring
from pymongo.errors import InvalidOperation, PyMongoError

from openkcm.field_encryption.mongodb import driver
from openkcm.field_encryption.mongodb.errors import ProtectionUnknown, ProtectionUnusable, StatementRefused
from openkcm.field_encryption.protected_fields import ProtectionUnreadable
from tests.client.field_encryption.mongodb.stand import ANN


class Sent(monitoring.CommandListener):
    """Records the names of commands that were sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event) -> None:
        self.names.append(event.command_name)

    succeeded = failed = lambda _self, _event: None


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def patients(stand, sent):
    with MongoClient(stand.address, event_listeners=[sent]) as client:
        client[stand.name].patients.insert_one(dict(ANN))
        sent.names.clear()
        yield client[stand.name].patients


SET = {"$set": {"diagnosis": "x"}}
WRITES = [
    lambda p: p.insert_one({"_id": 2, "address": [{"street": "x"}]}),
    lambda p: p.insert_one({"_id": 2, "address.street": "x"}),
    lambda p: p.update_one({"name": "Ann"}, SET),
    lambda p: p.update_one({}, SET),
    lambda p: p.update_one({"_id": {"$in": [1, 2]}}, SET),
    lambda p: p.update_one({"$or": [{"_id": 1}, {"_id": 2}]}, SET),
    lambda p: p.update_many({"name": "Ann"}, {"$set": {"address.street": "x"}}),
    lambda p: p.update_many({"name": "Ann"}, {"$set": {"address": {"street": "x"}}}),
    lambda p: p.update_one({"name": "Ann"}, SET, upsert=True),
    lambda p: p.update_one({"_id": "a"}, SET, collation={"locale": "de", "strength": 1}),
    lambda p: p.update_one({"_id": 1}, {"$set": {"diagnosis.code": 5}}),
    lambda p: p.update_one({"_id": 1}, {"$set": {"insurance.t": "x"}}),
    lambda p: p.update_one({"_id": 1}, {"$set": {"address": [{"street": "x"}]}}),
    lambda p: p.update_one({"_id": 1}, {"$set": {"address.$[].street": "x"}}),
    lambda p: p.update_one({"_id": 1}, {"$set": {"address.0.street": "x"}}),
    lambda p: p.update_one({"_id": 1}, {"$unset": {"insurance.c": ""}}),
    lambda p: p.update_one({"_id": 1}, {"$inc": {"diagnosis": 1}}),
    lambda p: p.update_one({"_id": 1}, {"$push": {"diagnosis": "x"}}),
    lambda p: p.update_one({"_id": 1}, {"$min": {"insurance": "x"}}),
    lambda p: p.update_one({"_id": 1}, {"$rename": {"diagnosis": "open"}}),
    lambda p: p.update_one({"_id": 1}, {"$rename": {"name": "diagnosis"}}),
    lambda p: p.update_one({"_id": 1}, {"$rename": {"name": "address"}}),
    lambda p: p.update_one({"_id": 1}, {"$currentDate": {"diagnosis": True}}),
    lambda p: p.update_one({"_id": 1}, [{"$set": {"diagnosis": "x"}}]),
    lambda p: p.update_one({"_id": 1}, [{"$set": {"name": "$diagnosis"}}]),
    lambda p: p.update_one({"_id": 1}, [{"$replaceWith": {"diagnosis": "x"}}]),
    lambda p: p.replace_one({"name": "Ann"}, {"diagnosis": "x"}),
    lambda p: p.replace_one({"name": "Ann"}, {"address": {"street": "x"}}, upsert=True),
    lambda p: p.find_one_and_update({"name": "Ann"}, SET),
    lambda p: p.find_one_and_replace({"name": "Ann"}, {"diagnosis": "x"}),
    lambda p: p.find_one_and_update({"_id": 1}, SET, sort=[("diagnosis", 1)]),
    lambda p: p.bulk_write([InsertOne({"_id": 5}), UpdateMany({}, SET)]),
    lambda p: p.bulk_write([InsertOne({"_id": 5}), ReplaceOne({"name": "x"}, {"diagnosis": "x"})], ordered=False),
    lambda p: p.bulk_write([InsertOne({"_id": 5}), UpdateOne({"name": "x"}, {"$inc": {"insurance": 1}})]),
    lambda p: p.insert_many([{"_id": 5}, {"_id": 6, "address": ["x"]}]),
    lambda p: p.aggregate([{"$out": "elsewhere"}]),
    lambda p: p.aggregate([{"$project": {"name": 1, "diagnosis": 1}}, {"$merge": {"into": "elsewhere"}}]),
    lambda p: p.database.notes.aggregate([{"$out": "patients"}]),
    lambda p: p.database.notes.aggregate([{"$merge": "patients"}]),
    lambda p: p.database.notes.aggregate([{"$merge": {"into": {"db": p.database.name, "coll": "patients"}}}]),
    lambda p: p.database.client.other.notes.aggregate([{"$out": {"db": p.database.name, "coll": "patients"}}]),
    lambda p: p.database.notes.rename("patients"),
    lambda p: p.rename("elsewhere"),
    lambda p: p.database.command("create", "seen", viewOn="patients"),
    lambda p: p.database.command("create", "patients", collation={"locale": "de"}),
    lambda p: p.database.command("mapReduce", "patients", map="f", reduce="g", out="elsewhere"),
    lambda p: p.database.command("mapReduce", "notes", map="f", reduce="g", out={"replace": "patients"}),
    lambda p: p.database.command("unknownCommand", "patients"),
    lambda p: p.database.client.admin.command("applyOps", [{"op": "i", "ns": p.full_name, "o": {"diagnosis": "x"}}]),
    lambda p: p.database.client.bulk_write([UpdateOne({"name": "x"}, SET, namespace=p.full_name)]),
    lambda p: p.database.client.admin.command(
        {"bulkWrite": 1, "ops": [{"update": 0, "filter": {}, "updateMods": SET}], "nsInfo": [{"ns": p.full_name}]}
    ),
]
READS = [
    lambda p: p.find_one({"diagnosis": "flu"}),
    lambda p: p.find_one({"diagnosis": {"$in": ["flu"]}}),
    lambda p: p.find_one({"insurance": {"$gt": "A"}}),
    lambda p: p.find_one({"insurance": re.compile("^A")}),
    lambda p: p.find_one({"insurance": Regex("^A")}),
    lambda p: p.find_one({"insurance": {"$regex": "^A"}}),
    lambda p: p.find_one({"insurance": {"$in": [re.compile("^A")]}}),
    lambda p: p.find_one({"insurance": {"$not": {"$eq": "A-1"}}}),
    lambda p: p.find_one({"insurance": {"$type": "string"}}),
    lambda p: p.find_one({"insurance.t": "x"}),
    lambda p: p.find_one({"address": {"street": "Main 1"}}),
    lambda p: p.find_one({"address.0.street": "Main 1"}),
    lambda p: p.find_one({"$or": [{"name": "Ann"}, {"$nor": [{"insurance": {"$lt": "B"}}]}]}),
    lambda p: p.find_one({"$expr": {"$eq": ["$insurance", "A-1"]}}),
    lambda p: p.find_one({"$expr": {"$eq": [{"$getField": "insurance"}, "A-1"]}}),
    lambda p: p.find_one({"$expr": {"$eq": [{"$getField": {"field": "insurance", "input": "$$ROOT"}}, "A-1"]}}),
    lambda p: p.find_one({"$where": "this.insurance == 'A-1'"}),
    lambda p: p.find_one({"$jsonSchema": {"properties": {"insurance": {"bsonType": "string"}}}}),
    lambda p: p.find_one({}, sort=[("insurance", 1)]),
    lambda p: p.find_one({}, {"insurance.t": 1}),
    lambda p: p.find_one({}, {"diagnosis": {"$slice": 1}}),
    lambda p: p.find_one({}, {"x": "$diagnosis"}),
    lambda p: p.find_one({}, {"_id": "$name", "diagnosis": 1}),
    lambda p: list(p.find(min=[("insurance", "A")], hint=[("insurance", 1)])),
    lambda p: p.database.command("find", "patients", max={"insurance": "A"}, hint={"insurance": 1}),
    lambda p: list(p.find(return_key=True)),
    lambda p: p.distinct("insurance"),
    lambda p: p.distinct("address"),
    lambda p: p.count_documents({"diagnosis": "flu"}),
    lambda p: p.delete_one({"diagnosis": "flu"}),
    lambda p: p.update_one({"diagnosis": "flu"}, {"$set": {"name": "x"}}),
    lambda p: p.create_index("diagnosis"),
    lambda p: p.create_index([("insurance", "text")]),
    lambda p: p.create_index("address"),
    lambda p: list(p.find_raw_batches()),
    lambda p: p.watch(),
    lambda p: p.database.watch(),
    lambda p: p.database.client.watch(),
    lambda p: p.aggregate([{"$match": {"diagnosis": "flu"}}]),
    lambda p: p.aggregate([{"$sort": {"insurance": 1}}]),
    lambda p: p.aggregate([{"$group": {"_id": "$insurance"}}]),
    lambda p: p.aggregate([{"$group": {"_id": 1, "all": {"$push": "$$ROOT"}}}]),
    lambda p: p.aggregate([{"$group": {"_id": 1, "all": {"$push": "$$CURRENT.diagnosis"}}}]),
    lambda p: p.aggregate([{"$project": {"x": {"$toUpper": "$diagnosis"}}}]),
    lambda p: p.aggregate([{"$project": {"x": {"$let": {"vars": {"d": "$$ROOT"}, "in": "$$d.diagnosis"}}}}]),
    lambda p: p.aggregate([{"$project": {"_id": 0, "diagnosis": 1}}, {"$addFields": {"x": 1}}]),
    lambda p: p.aggregate([{"$addFields": {"x": "$address"}}]),
    lambda p: p.aggregate([{"$addFields": {"diagnosis": "x"}}]),
    lambda p: p.aggregate([{"$addFields": {"_id": "x"}}]),
    lambda p: p.aggregate([{"$unset": "_id"}]),
    lambda p: p.aggregate([{"$unwind": "$address"}]),
    lambda p: p.aggregate([{"$replaceRoot": {"newRoot": "$address"}}]),
    lambda p: p.aggregate([{"$sortByCount": "$insurance"}]),
    lambda p: p.aggregate([{"$facet": {"all": [{"$match": {}}]}}]),
    lambda p: p.aggregate([{"$unionWith": "notes"}]),
    lambda p: p.aggregate([{"$setWindowFields": {"output": {}}}]),
    lambda p: p.aggregate([{"$lookup": {"from": "notes", "localField": "insurance", "foreignField": "x", "as": "n"}}]),
    lambda p: p.aggregate([{"$lookup": {"from": "notes", "let": {"d": "$diagnosis"}, "pipeline": [], "as": "n"}}]),
    lambda p: p.aggregate([{"$lookup": {"from": "notes", "localField": "a", "foreignField": "b", "as": "diagnosis"}}]),
    lambda p: p.database.notes.aggregate(
        [{"$lookup": {"from": "patients", "localField": "p", "foreignField": "_id", "as": "x"}}]
    ),
    lambda p: p.database.notes.aggregate(
        [{"$lookup": {"from": "notes", "pipeline": [{"$unionWith": {"coll": "patients"}}], "as": "x"}}]
    ),
    lambda p: p.database.notes.aggregate([{"$facet": {"a": [{"$unionWith": "patients"}]}}]),
    lambda p: p.database.command("explain", {"find": "patients", "filter": {"diagnosis": "flu"}}),
]


@pytest.mark.parametrize("asks", [WRITES, READS], ids=["writes", "reads"])
def test_unsupported_command_is_rejected_and_nothing_is_sent(stand, patients, sent, asks):
    for ask in asks:
        line = f"line {ask.__code__.co_firstlineno}"
        with pytest.raises(PyMongoError) as refused:
            ask(patients)
        assert type(refused.value) is StatementRefused, line
        assert "(statement_refused); " in str(refused.value), line
        assert not sent.names, line
        assert list(patients.find()) == [ANN], line  # the connection still works
        sent.names.clear()
    with stand.plain() as plain:
        assert plain.list_collection_names(filter={"name": {"$ne": "openkcm.column_key"}}) == ["patients"]


def test_raw_batches_of_an_aggregation_are_rejected(patients):
    with pytest.raises(StatementRefused, match="raw batches"):
        list(patients.aggregate_raw_batches([{"$match": {}}]))
    assert patients.find_one() == ANN


def test_rejection_is_an_error_of_the_driver():
    assert issubclass(StatementRefused, InvalidOperation)
    assert StatementRefused("no").code == "statement_refused"


async def test_unsupported_command_is_rejected_for_async(stand, patients):
    async with AsyncMongoClient(stand.address) as client:
        other = client[stand.name].patients
        for ask in (
            lambda: other.update_one({}, SET),
            lambda: other.find_one({"diagnosis": "flu"}),
            lambda: other.bulk_write([UpdateOne({}, SET)]),
            lambda: other.insert_many([{"address": ["x"]}]),
            lambda: client.bulk_write([UpdateOne({}, SET, namespace=patients.full_name)]),
            lambda: other.aggregate([{"$sort": {"diagnosis": 1}}]),
        ):
            with pytest.raises(StatementRefused):
                await ask()
        assert await other.find_one() == ANN


def test_pipeline_upsert_by_a_nested_value_that_may_be_plain_is_rejected(stand, patients):
    """An array of plain values may match, and MongoDB has no expression that leaves its parts as they are."""
    stand.protect("patients", address__street="deterministic+")
    with pytest.raises(StatementRefused, match="an upsert by a pipeline and the value of"):
        patients.update_one({"address.street": "Main 1"}, [{"$set": {"name": "x"}}], upsert=True)


UNFIT = [
    lambda p: p.insert_one({"_id": 1.5, "diagnosis": "x"}),
    lambda p: p.insert_one({"_id": {"a": 1}, "diagnosis": "x"}),
    lambda p: p.insert_one({"_id": True, "diagnosis": "x"}),
    lambda p: p.update_one({"_id": 1.0}, SET),
    lambda p: p.insert_one({"insurance": 1.5}),
    lambda p: p.insert_one({"insurance": {"a": 1}}),
    lambda p: p.insert_one({"insurance": ["a"]}),
    lambda p: p.insert_many([{"_id": 5}, {"_id": 6, "insurance": 1.5}]),
    lambda p: p.find_one({"insurance": 1.5}),
]


def test_unsupported_value_or_id_is_rejected(patients, sent):
    for ask in UNFIT:
        with pytest.raises(ProtectionUnusable, match="protection_unusable"):
            ask(patients)
        assert not sent.names, f"line {ask.__code__.co_firstlineno}"
    assert list(patients.find()) == [ANN]


def test_invalid_list_of_fields_is_rejected(stand, patients):
    for fields in (
        {"address": "randomised", "address__street": "randomised"},
        *({path: "randomised"} for path in ("_id", "_id__a", "a__", "a__0")),
    ):
        stand.protect("patients", **fields)
        for ask in (patients.find_one, lambda: patients.insert_one({"name": "x"})):
            with pytest.raises(ProtectionUnusable):
                ask()


def test_nothing_is_sent_while_the_list_is_not_available(stand, patients, sent):
    stand.protection.problem = ProtectionUnreadable("connection_failed", "the crypto service is not reachable")
    for ask in (patients.find_one, lambda: patients.insert_one({"name": "x"}), lambda: patients.insert_many([{}])):
        with pytest.raises(ProtectionUnknown, match="protection_unknown"):
            ask()
    with MongoClient(stand.address, serverSelectionTimeoutMS=5000) as fresh, pytest.raises(ProtectionUnknown):
        fresh[stand.name].patients.find_one()  # the server responds, so the error must not look like a lost server
    assert not sent.names
    stand.protection.problem = None
    assert list(patients.find()) == [ANN]


def test_client_with_automatic_encryption_is_rejected(patients):
    patients.database.client._encrypter = object()
    try:
        for ask in (patients.find_one, lambda: patients.insert_many([{"diagnosis": "x"}])):
            with pytest.raises(StatementRefused, match="has automatic encryption"):
                ask()
    finally:
        patients.database.client._encrypter = None


def test_errors_contain_no_plaintext(patients):
    messages = []
    for ask in (
        lambda: patients.update_one({"name": "Ann"}, {"$set": {"diagnosis": "secret-word"}}),
        lambda: patients.find_one({"diagnosis": "secret-word"}),
        lambda: patients.insert_one({"address": ["secret-word"]}),
        lambda: patients.insert_one({"insurance": ["secret-word"]}),
    ):
        with pytest.raises(PyMongoError) as refused:
            ask()
        messages.append(f"{refused.value} {refused.value!r}")
    assert "secret-word" not in "".join(messages)


def test_unsupported_pymongo_is_rejected(monkeypatch):
    assert driver.incompatibility() == ""
    monkeypatch.setattr(driver.pymongo, "version_tuple", (4, 99, 0))
    assert "and not 4.20" in driver.incompatibility()
    monkeypatch.undo()
    monkeypatch.setattr(driver.bulk._Bulk, "execute", lambda self, write_concern: None)  # noqa: ARG005 - its signature
    assert "has another _Bulk.execute" in driver.incompatibility()
    monkeypatch.undo()
    monkeypatch.delattr(driver.message._Query, "as_command")
    assert "has another _Query.as_command" in driver.incompatibility()
