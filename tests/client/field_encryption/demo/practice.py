"""A practice's patients, in plain pymongo: an application without any knowledge of OpenKCM."""

import os

from pymongo import ASCENDING, AsyncMongoClient, MongoClient


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
