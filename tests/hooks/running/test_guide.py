"""docs/postgresql.md, run as written."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg

from hooks.postgresql.key_store import SETUP
from tests.hooks.running.programs import REPOSITORY, Program


def blocks(language: str) -> list[str]:
    page = (REPOSITORY / "docs/postgresql.md").read_text(encoding="utf-8")
    return [
        textwrap.dedent(block)
        for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    ]


def operator(program: Program, command: str) -> None:
    openkcm, *words = command.split()
    assert (openkcm, words[2:4]) == ("openkcm", ["acme-corp-12345", "clinic"])
    program.operator(*[program.home.tenant_id if word == "acme-corp-12345" else word for word in words])


def test_the_guide(program: Program):
    tables, keys, index = blocks("sql")
    with psycopg.connect(program.conninfo) as owner:
        for statements in (tables, keys, index):
            owner.execute(statements)
    operator(program, blocks("console")[0])
    (program.app / "app.py").write_text(blocks("python")[0])
    (command,) = blocks("sh")
    words = command.split()
    assert words[:2] == ["openkcm", "run"]
    assert words[-3:] == ["--", "python", "app.py"]
    ran = program.protected("app.py", DATABASE=program.conninfo)
    assert ran.stdout == "(1, 'influenza')\n('influenza',)\n", ran.stderr
    with psycopg.connect(program.conninfo) as owner:
        stored = owner.execute("SELECT name, diagnosis, insurance FROM patients").fetchone()
        assert stored is not None
        assert [value[:8] for value in stored] == ["okcm:c1:", "okcm:c1:", "okcm:c2:"]
        found = owner.execute("SELECT count(*) FROM patients WHERE left(insurance, 30) = %s", (stored[2][:30],))
        assert found.fetchone() == (1,)


def test_rows_from_before_and_leaving_again(program: Program):
    with psycopg.connect(program.conninfo) as owner:
        owner.execute(blocks("sql")[0])
        owner.execute(
            "INSERT INTO patients (name, diagnosis, insurance) SELECT 'Ann', 'flu', 'A-1' FROM generate_series(1, 30)"
        )
    protect, look, do, switch_off, undo = blocks("console")
    operator(program, protect)
    given = psycopg.conninfo.conninfo_to_dict(program.conninfo)
    services, passwords = program.place / "pg_service.conf", program.place / "pgpass"
    names = {"host": given["host"], "dbname": given["dbname"], "user": given["user"]}
    service = re.sub(r"^(\w+)=.*$", lambda line: f"{line[1]}={names[line[1]]}", blocks("ini")[0], flags=re.MULTILINE)
    services.write_text(service + f"port={given['port']}\n")
    passwords.write_text(f"*:*:*:*:{given.get('password', '')}\n")
    passwords.chmod(0o600)
    environment = program.environment() | {"PGSERVICEFILE": str(services), "PGPASSFILE": str(passwords)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    looked, did, undid = (
        subprocess.run(
            command.replace("openkcm --database", f"{program.folder} --database").split(),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        for command in (look, do, undo)
    )
    operator(program, switch_off)
    assert (looked.returncode, did.returncode, undid.returncode) == (0, 0, 0), did.stderr
    assert "30" in looked.stdout
    assert "Plain values need not be allowed any more in public.patients.name" in did.stdout
    assert "Every value was decrypted" in undid.stdout
    with psycopg.connect(program.conninfo) as owner:
        rows = owner.execute("SELECT DISTINCT name, diagnosis, insurance FROM patients").fetchall()
    assert rows == [("Ann", "flu", "A-1")]


def test_the_table_of_keys_is_the_one_the_hook_makes():
    assert blocks("sql")[1] == SETUP
