"""docs/mongodb.md, run as written."""

import re

import pytest
from pymongo import MongoClient

from openkcm.contract.client_files import Offer, configuration
from openkcm.contract.services import ServiceKind
from tests.client.field_encryption.running.programs import REPOSITORY, MongoProgram, blocks

GUIDE = "mongodb.md"
PAGE = (REPOSITORY / "docs" / GUIDE).read_text(encoding="utf-8")


def test_guide_runs_as_written(mongo_program: MongoProgram):
    program = mongo_program
    (commands,) = blocks(GUIDE, "console")
    for command in commands.splitlines():
        program.operator_runs(command)
    with MongoClient(program.conninfo) as client:
        client.drop_database("clinic")
        ran = program.run_example(*blocks(GUIDE, "python"), *blocks(GUIDE, "sh"))
        output = "{'code': 'J11', 'since': 2026} {'street': 'Main 1', 'city': 'Ulm'}"
        assert ran.stdout == f"{output}\n", ran.stderr
        assert f"`{output}`" in PAGE
        stored = client.clinic.patients.find_one()
        assert stored is not None
        assert [stored["diagnosis"].subtype, stored["address"]["street"].subtype] == [199, 199]
        assert [one.subtype for one in stored["insurance"].values()] == [199, 199]
        (index,) = [one for one in client.clinic.patients.list_indexes() if one["name"] == "insurance_1"]
        assert (dict(index["key"]), index["unique"]) == ({"insurance.t": 1}, True)


def test_mongod_section_equals_the_generated_file():
    offer = Offer("https://kcm.example:8443", "kcm.example:5696")
    generated = configuration(ServiceKind.MONGODB, "orders", "/etc/openkcm/orders", offer, "both")["mongod.yaml"]
    (section,) = blocks(GUIDE, "yaml")
    assert section == "".join(line for line in generated.splitlines(keepends=True) if not line.startswith("#"))


@pytest.mark.parametrize("operator", re.findall(r"`(\$\w+)`", PAGE))
def test_every_operator_of_the_guide_is_supported_by_the_encryption(operator):
    sources = "".join(
        path.read_text() for path in (REPOSITORY / "client/src/openkcm/field_encryption/mongodb").rglob("*.py")
    )
    generic = {"$inc", "$push", "$regex"}  # rejected like every operator that is not listed
    assert f'"{operator}"' in sources or operator in generic
