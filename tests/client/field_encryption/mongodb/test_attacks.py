"""Attacks on stored data, and behaviour without keys."""

import pytest
from pymongo import MongoClient, UpdateOne

from openkcm.field_encryption.key_cache import KeyErrorScope, KeyUnwrapError
from openkcm.field_encryption.mongodb.errors import KeysUnavailable, PlainValueFound, ValueRefused
from tests.client.field_encryption.mongodb.stand import ANN
from tests.client.field_encryption.stand import MemoryKeys


@pytest.fixture
def patients(patients):
    patients.insert_one(dict(ANN))
    return patients


def test_value_is_decrypted_only_in_its_place(stand, patients):
    stand.protect(
        "patients", diagnosis="randomised", other="randomised", insurance="deterministic", tag="deterministic"
    )
    patients.insert_many([{"_id": 2, "diagnosis": "b", "insurance": "I", "other": "o", "tag": "I"}, {"_id": "2"}])
    assert patients.find_one({"_id": 2})["diagnosis"] == "b"  # the ciphers are known from now on
    with stand.plain() as plain:
        two = plain.patients.find_one({"_id": 2})
        assert two["insurance"]["t"] != two["tag"]["t"]  # equal values of two fields are not visible
        sealed = two["diagnosis"]
        moves = {
            "to another document": {"_id": 10, "diagnosis": sealed},
            "to an _id of another type": {"_id": "2", "diagnosis": sealed},
            "to another field": {"_id": 2, "other": sealed},
            "altered": {"_id": 2, "diagnosis": type(sealed)(sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed.subtype)},
            "cut": {"_id": 2, "diagnosis": type(sealed)(sealed[:20], sealed.subtype)},
            "under another tag": {"_id": 2, "insurance": {"t": two["tag"]["t"], "c": two["insurance"]["c"]}},
            "with another's tag and ciphertext": {"_id": 10, "insurance": two["insurance"]},
            "without a ciphertext": {"_id": 2, "insurance": {"t": two["tag"]["t"], "c": two["tag"]["t"]}},
        }
    for move, document in moves.items():
        with stand.plain() as plain:
            plain.patients.replace_one({"_id": document["_id"]}, document, upsert=True)
        with pytest.raises((ValueRefused, PlainValueFound)) as refused:
            patients.find_one({"_id": document["_id"]})
        assert isinstance(refused.value, ValueRefused) is (move != "without a ciphertext"), move
    stand.protect("copies", diagnosis="randomised")
    with stand.plain() as plain:
        plain.copies.insert_one({"_id": 2, "diagnosis": sealed})
    with pytest.raises(ValueRefused, match="protected_value_refused"):
        patients.database.copies.find_one()


def test_another_service_decrypts_nothing(stand, patients):
    assert patients.find_one() == ANN
    stand.keys = MemoryKeys()
    with stand.hooked(), MongoClient(stand.address) as client, pytest.raises(KeysUnavailable):
        client[stand.name].patients.find_one()


def test_plain_value_is_rejected_or_allowed(stand, patients):
    with stand.plain() as plain:
        plain.patients.insert_one({"_id": 2, "diagnosis": "old", "insurance": "A-1", "address": {"street": "x"}})
        plain.patients.insert_one({"_id": 3, "address": [{"street": "x"}]})
    for number in (2, 3):
        with pytest.raises(PlainValueFound, match="unencrypted_value_found"):
            patients.find_one({"_id": number})
    stand.protect("patients", diagnosis="randomised+", insurance="deterministic+", address__street="randomised+")
    assert patients.find_one({"_id": 2})["diagnosis"] == "old"
    assert patients.find_one({"_id": 3})["address"] == [{"street": "x"}]
    assert [one["_id"] for one in patients.find({"insurance": "A-1"})] == [1, 2]
    assert [one["_id"] for one in patients.find({"insurance": {"$in": ["A-1", None]}})] == [1, 2, 3]
    assert [one["_id"] for one in patients.find({"insurance": {"$ne": "A-1"}})] == [3]
    patients.update_one({"_id": 2}, {"$set": {"diagnosis": "new"}})
    result = patients.update_one({"insurance": "N", "_id": 4}, {"$set": {"name": "Neu"}}, upsert=True)
    assert result.upserted_id == 4
    assert patients.find_one({"insurance": "N"}) == {"_id": 4, "insurance": "N", "name": "Neu"}
    with stand.plain() as plain:
        assert plain.patients.find_one({"_id": 2})["diagnosis"] != "new"


# Keys.


def test_program_continues_briefly_without_the_crypto_service_and_stores_nothing_plain(stand, patients):
    stand.keys.up = False
    assert patients.find_one() == ANN
    patients.insert_one({"_id": 2, "diagnosis": "b"})
    stand.now += 61
    for ask in (
        patients.find_one,
        lambda: patients.insert_one({"_id": 3, "diagnosis": "c"}),
        lambda: patients.insert_many([{"_id": 3, "diagnosis": "c"}]),
        lambda: patients.bulk_write([UpdateOne({"_id": 1}, {"$set": {"diagnosis": "x"}})]),
        lambda: patients.find_one({"insurance": "A-1"}),
    ):
        with pytest.raises(KeysUnavailable, match="connection_failed"):
            ask()
    assert patients.count_documents({}) == 2
    stand.keys.up = True
    stand.now += 2
    assert patients.find_one() == ANN


def test_rejection_ends_lent_keys_immediately(stand, patients):
    patients.insert_many([{"_id": number, "diagnosis": "b"} for number in range(2, 7)])
    asks = (
        patients.find_one,
        lambda: patients.update_one({"_id": 1}, {"$set": {"diagnosis": "flu"}}),
        lambda: patients.insert_one({"diagnosis": "c"}),
        lambda: patients.find_one({"insurance": "A-1"}),
    )
    for ask in asks * 2:
        ask()
    cursor = patients.find(batch_size=2)
    assert [next(cursor)["_id"] for _ in range(2)] == [1, 2]
    stand.keys.refused = KeyUnwrapError("tenant_not_operational", "the tenant is locked", ends=KeyErrorScope.ALL_KEYS)
    assert not any([callback() for callback in stand.keys.callbacks])  # noqa: C419 - each must run
    with pytest.raises(KeysUnavailable):
        next(cursor)
    for ask in asks:
        with pytest.raises(KeysUnavailable):
            ask()
    stand.keys.refused = None
    stand.now += 2
    assert patients.find_one() == ANN


def test_first_key_of_a_field_is_kept(stand, patients):
    store = stand.hook()._store(patients.database.client, stand.name)
    column = (stand.name, "patients", "new")
    store.add(column, "data", "first")
    store.add(column, "data", "second")
    assert store.read(column, "data") == {1: "first"}
    stand.protect("patients", new="randomised")
    with pytest.raises(KeysUnavailable):
        patients.insert_one({"new": "x"})


def test_key_survives_a_transaction_that_is_rolled_back(stand, patients):
    stand.protect("visits", notes="randomised")
    visits = patients.database.visits
    with visits.database.client.start_session() as session, session.start_transaction():
        visits.insert_one({"_id": 1, "notes": "a"}, session=session)
        session.abort_transaction()
    visits.insert_one({"_id": 2, "notes": "b"})
    stand.now += 61
    assert list(visits.find()) == [{"_id": 2, "notes": "b"}]
    with stand.plain() as plain:
        assert plain["openkcm.column_key"].count_documents({"field": "notes"}) == 1
