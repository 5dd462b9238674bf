"""A practice's patients, in plain pymongo: an application that has never heard of OpenKCM."""

import os

from pymongo import ASCENDING, AsyncMongoClient, MongoClient, ReturnDocument


def connect():
    return MongoClient(os.environ["PRACTICE_DATABASE"], tz_aware=True)


def connect_async():
    return AsyncMongoClient(os.environ["PRACTICE_DATABASE"])


def begin(client):
    client.drop_database("practice")
    client.practice.patients.create_index([("insurance", ASCENDING)], unique=True, sparse=True)
    return client.practice.patients


def admit(patients, name, diagnosis, insurance, **more: object):
    return patients.insert_one({"name": name, "diagnosis": diagnosis, "insurance": insurance, **more}).inserted_id


def insured(patients, insurance):
    return patients.find_one({"insurance": insurance})


def diagnose(patients, number, diagnosis):
    return patients.find_one_and_update(
        {"_id": number},
        {"$set": {"diagnosis": diagnosis}, "$inc": {"changes": 1}},
        return_document=ReturnDocument.AFTER,
    )


def move(patients, number, street, city):
    patients.update_one({"_id": number}, {"$set": {"address": {"street": street, "city": city}}})


def cities(patients):
    grouped = patients.aggregate([{"$group": {"_id": "$address.city", "count": {"$sum": 1}}}, {"$sort": {"_id": 1}}])
    return {one["_id"]: one["count"] for one in grouped}
