"""A server that speaks MongoDB's protocol, and the hook in this process with keys that need no crypto service."""

from collections.abc import Iterator

import pytest
from pymongo import MongoClient

from tests.hooks.mongodb.stand import Stand
from tests.stories.mongo import mongo_server


@pytest.fixture(scope="session")
def mongo(tmp_path_factory) -> Iterator[str]:
    with mongo_server(tmp_path_factory.mktemp("mongo")) as address:
        yield address


@pytest.fixture
def stand(mongo, tmp_path) -> Iterator[Stand]:
    stand = Stand(mongo, tmp_path)
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
