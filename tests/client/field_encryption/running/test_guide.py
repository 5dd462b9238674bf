"""docs/postgresql.md, run as written."""

import os
import re
import sys
from pathlib import Path

import psycopg

from openkcm.field_encryption.postgresql.key_store import SETUP
from tests.client.field_encryption.running.programs import Program, blocks

GUIDE = "postgresql.md"


def test_the_guide(program: Program):
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


def test_rows_from_before_and_leaving_again(program: Program):
    program.execute(blocks(GUIDE, "sql")[0])
    program.execute(
        "INSERT INTO patients (name, diagnosis, insurance) SELECT 'Ann', 'flu', 'A-1' FROM generate_series(1, 30)"
    )
    protect, look, do, switch_off, undo = blocks(GUIDE, "console")
    program.operator_runs(protect)
    given = psycopg.conninfo.conninfo_to_dict(program.conninfo)
    services, passwords = program.place / "pg_service.conf", program.place / "pgpass"
    names = {"host": given["host"], "dbname": given["dbname"], "user": given["user"]}
    service = re.sub(
        r"^(\w+)=.*$", lambda line: f"{line[1]}={names[line[1]]}", blocks(GUIDE, "ini")[0], flags=re.MULTILINE
    )
    services.write_text(service + f"port={given['port']}\n")
    passwords.write_text(f"*:*:*:*:{given.get('password', '')}\n")
    passwords.chmod(0o600)
    environment = {"PGSERVICEFILE": str(services), "PGPASSFILE": str(passwords)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    looked, did, undid = (
        program.run(*command.replace("openkcm --database", f"{program.folder} --database").split(), **environment)
        for command in (look, do, undo)
    )
    program.operator_runs(switch_off)
    assert (looked.returncode, did.returncode, undid.returncode) == (0, 0, 0), did.stderr
    assert "30" in looked.stdout
    assert "Plain values need not be allowed any more in public.patients.name" in did.stdout
    assert "Every value was decrypted" in undid.stdout
    assert program.execute("SELECT DISTINCT name, diagnosis, insurance FROM patients") == [("Ann", "flu", "A-1")]


def test_the_table_of_keys_is_the_one_the_hook_makes():
    assert blocks(GUIDE, "sql")[1] == SETUP
