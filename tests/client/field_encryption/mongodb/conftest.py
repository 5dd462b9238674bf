"""A separate database for each test, and the encryption in this process with keys in memory."""

from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from tests.client.field_encryption.mongodb.stand import Stand


@pytest.fixture
def stand(mongo) -> Iterator[Stand]:
    stand = Stand(address=mongo)
    stand.protect("patients", diagnosis="randomised", insurance="deterministic", address__street="randomised")
    with stand.hooked():
        yield stand


@pytest.fixture
def db(stand) -> Iterator:
    with MongoClient(stand.address) as client:
        yield client[stand.name]


@pytest.fixture
def patients(db):
    return db.patients
