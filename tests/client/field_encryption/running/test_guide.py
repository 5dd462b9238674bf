"""docs/postgresql.md, run as written."""

import os
import re
import sys
from pathlib import Path

import psycopg

from openkcm.field_encryption.postgresql.key_store import SETUP
from tests.client.field_encryption.running.programs import Program, blocks

GUIDE = "postgresql.md"


def test_guide_runs_as_written(program: Program):
    tables, keys, index = blocks(GUIDE, "sql")
    for statements in (tables, keys, index):
        program.execute(statements)
    program.operator_runs(blocks(GUIDE, "console")[0])
    ran = program.run_example(blocks(GUIDE, "python")[0], *blocks(GUIDE, "sh"))
    assert ran.stdout == "(1, 'influenza')\n('influenza',)\n", ran.stderr
    [stored] = program.execute("SELECT name, diagnosis, insurance FROM patients")
    assert [value[:8] for value in stored] == ["okcm:c1:", "okcm:c1:", "okcm:c2:"]
    found = program.execute(f"SELECT count(*) FROM patients WHERE left(insurance, 30) = '{stored[2][:30]}'")
    assert found == [(1,)]


def test_guide_to_earlier_rows_and_to_ending_the_protection(program: Program):
    program.execute(blocks(GUIDE, "sql")[0])
    program.execute(
        "INSERT INTO patients (name, diagnosis, insurance) SELECT 'Ann', 'flu', 'A-1' FROM generate_series(1, 30)"
    )
    protect, count, encrypt, end_plain_values, undo = blocks(GUIDE, "console")
    program.operator_runs(protect)
    parameters = psycopg.conninfo.conninfo_to_dict(program.conninfo)
    services, passwords = program.place / "pg_service.conf", program.place / "pgpass"
    names = {"host": parameters["host"], "dbname": parameters["dbname"], "user": parameters["user"]}
    service = re.sub(
        r"^(\w+)=.*$", lambda line: f"{line[1]}={names[line[1]]}", blocks(GUIDE, "ini")[0], flags=re.MULTILINE
    )
    services.write_text(service + f"port={parameters['port']}\n")
    passwords.write_text(f"*:*:*:*:{parameters.get('password', '')}\n")
    passwords.chmod(0o600)
    environment = {"PGSERVICEFILE": str(services), "PGPASSFILE": str(passwords)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    counted, encrypted, decrypted = (
        program.run(*command.replace("openkcm --database", f"{program.folder} --database").split(), **environment)
        for command in (count, encrypt, undo)
    )
    program.operator_runs(end_plain_values)
    assert (counted.returncode, encrypted.returncode, decrypted.returncode) == (0, 0, 0), encrypted.stderr
    assert "30" in counted.stdout
    assert "Plain values need not be allowed any more in public.patients.name" in encrypted.stdout
    assert "Every value was decrypted" in decrypted.stdout
    assert program.execute("SELECT DISTINCT name, diagnosis, insurance FROM patients") == [("Ann", "flu", "A-1")]


def test_key_table_of_the_guide_equals_that_of_the_encryption():
    assert blocks(GUIDE, "sql")[1] == SETUP
