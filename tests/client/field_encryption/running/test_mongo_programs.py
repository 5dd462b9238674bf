"""A sample application on MongoDB, run unchanged: plain and protected."""

import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from openkcm.contract.protected_fields import Mode
from tests.client.field_encryption.running.programs import client_folder

FIELDS = {"diagnosis": Mode.RANDOMISED, "insurance": Mode.DETERMINISTIC, "address__street": Mode.RANDOMISED}
PLACE = "practice.patients"


@pytest.fixture
def program(mongo_program):
    mongo_program.protect(PLACE, **FIELDS)
    return mongo_program


def test_tests_of_an_application_pass_plain_and_protected(program):
    program.assert_own_tests_pass("practice_checks.py")


# Ciphertext may contain three given bytes by chance; it does not contain nine.
WRITE = (
    "import practice; p = practice.begin(practice.connect()); "
    "practice.admit(p, 'Ann', 'influenza', 'insured-1', _id=1, address={'street': 'Main Street', 'city': 'Ulm'})"
)
READ = "import practice; print(practice.insured(practice.connect().practice.patients, 'insured-1')['diagnosis'])"
READ_ANY = "import practice; print(practice.connect().practice.patients.find_one()['diagnosis'])"


def dump(address: str) -> bytes:
    """Return all stored documents as a backup would contain them."""
    with MongoClient(address) as client:
        options = CodecOptions(RawBSONDocument)
        return b"".join(
            bytes(document.raw)
            for name in client.practice.list_collection_names()
            for document in client.practice.get_collection(name, codec_options=options).find()
        )


def test_stored_values_are_ciphertext_and_another_tenant_cannot_read_them(program, world, service):
    writing = program.protected("-c", WRITE)
    assert writing.returncode == 0, writing.stderr
    stored = dump(program.conninfo)
    assert stored.count(b"\0okcm\1") == 3
    assert b"Ann" in stored
    assert b"Ulm" in stored
    for word in (b"influenza", b"insured-1", b"Main Street"):
        assert word not in stored
    assert program.protected("-c", READ).stdout == "influenza\n"
    assert program.plain("-c", READ).returncode == 1  # a query for the insurance needs the key
    assert program.plain("-c", READ_ANY).stdout[2:].startswith("\\x00okcm\\x01")
    tenant = world.tenant()
    other = client_folder(tenant, "clinic", service, program.place / "other")
    neighbour = client_folder(program.home, "other", service, program.place / "neighbour")
    program.protect(PLACE, home=tenant, **FIELDS)
    program.protect(PLACE, service="other", **FIELDS)
    for folder in (other, neighbour):
        for ask in (READ, READ_ANY):
            read = program.protected("-c", ask, folder=folder)
            assert (read.returncode, read.stdout) == (1, "")
            assert "openkcm.field_encryption.mongodb.errors.KeysUnavailable" in read.stderr
    # A value in the place of the other tenant's value cannot be decrypted by it either.
    with MongoClient(program.conninfo) as client:
        own_document = client.practice.patients.find_one()
        client.drop_database("practice")
        assert program.protected("-c", WRITE, folder=other).returncode == 0
        client.practice.patients.update_one({"_id": 1}, {"$set": {"diagnosis": own_document["diagnosis"]}})
    read = program.protected("-c", READ_ANY, folder=other)
    assert (read.returncode, read.stdout) == (1, "")
    assert "protected_value_refused" in read.stderr


def test_driver_that_cannot_be_protected_is_not_imported(program):
    (program.app / "txmongo.py").write_text("")
    ran = program.protected("-c", "import txmongo; print('ran')")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "use pymongo" in ran.stderr
    (program.app / "pymongo").mkdir()
    (program.app / "pymongo" / "__init__.py").write_text("version = '3.13.0'\nversion_tuple = (3, 13, 0)\n")
    ran = program.protected("-c", "import pymongo; print('ran')")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "this pymongo cannot be protected" in ran.stderr
