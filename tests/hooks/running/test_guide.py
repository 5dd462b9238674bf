"""docs/postgresql.md, run as written."""

import re

import psycopg

from hooks.postgresql.key_store import SETUP
from tests.hooks.running.programs import REPOSITORY, Program


def blocks(language: str) -> list[str]:
    page = (REPOSITORY / "docs/postgresql.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_guide(program: Program):
    tables, keys, index = blocks("sql")
    with psycopg.connect(program.conninfo) as owner:
        for statements in (tables, keys, index):
            owner.execute(statements)
    openkcm, *words = blocks("console")[0].split()
    assert (openkcm, words[2:4]) == ("openkcm", ["acme-corp-12345", "clinic"])
    program.operator(*[program.home.tenant_id if word == "acme-corp-12345" else word for word in words])
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


def test_the_table_of_keys_is_the_one_the_hook_makes():
    assert blocks("sql")[1] == SETUP
