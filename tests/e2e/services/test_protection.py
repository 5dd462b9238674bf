"""An administrator protects a column on the page Services, and a running program encrypts it from the next row."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from playwright.sync_api import Locator, Page, expect

from tests.client.field_encryption.running.programs import DEMO
from tests.concurrency import wait_until
from tests.e2e.connected import connect
from tests.e2e.dashboard.harness.dashboard_pages import ADA, go_to, select_service
from tests.e2e.dashboard.harness.root_key_pages import close, open_dialog
from tests.e2e.dashboard.harness.sign_ons import sign_in, subject
from tests.e2e.stack import OPENKCM, Stack

WRITER = """
import os, sys, psycopg
conn = psycopg.connect(os.environ["DATABASE"], autocommit=True)
for number in sys.stdin:
    conn.execute("INSERT INTO notes VALUES (%s, 'secret')", [int(number)])
    print("done", flush=True)
"""


@contextmanager
def running(folder: Path, database: str) -> Iterator[Callable[[], bool]]:
    """Run the program; yield a function that lets it store a row and returns whether the value is encrypted."""
    with psycopg.connect(database) as owner:
        owner.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
    program = subprocess.Popen(
        [OPENKCM, "run", "--folder", str(folder), "--", sys.executable, "-c", WRITER],
        cwd=DEMO,
        env={"PATH": "", "DATABASE": database, "OPENKCM_RUN_CATALOGUE_SECONDS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    numbers = iter(range(1_000_000))
    with psycopg.connect(database, autocommit=True) as owner:

        def encrypted() -> bool:
            number = next(numbers)
            program.stdin.write(f"{number}\n")
            program.stdin.flush()
            assert program.stdout.readline() == "done\n"
            found = owner.execute("SELECT text LIKE 'okcm:c1:%%' FROM notes WHERE id = %s", [number]).fetchone()
            return found == (True,)

        try:
            yield encrypted
        finally:
            program.communicate(timeout=60)


def until(encrypted: Callable[[], bool], *, wanted: bool) -> None:
    wait_until(lambda: encrypted() is wanted, lambda: f"encrypted is not {wanted}")


def open_fields(page: Page, service: str) -> Locator:
    go_to(page, "Services")
    select_service(page, service)
    dialog = open_dialog(page, "services-fields")
    expect(dialog.get_by_text("Your data is never sent to OpenKCM")).to_be_visible()
    return dialog


def test_a_running_program_encrypts_a_column_that_was_protected_on_the_page(
    stack: Stack, tenant: str, visitor: Callable[..., Page], database: str, tmp_path: Path
) -> None:
    mine = connect(stack, tenant, "postgresql", "notes-db", tmp_path / "mine")
    page = sign_in(visitor(), stack, tenant)
    with running(mine.folder, database) as encrypted:
        assert not encrypted()
        dialog = open_fields(page, "notes-db")
        dialog.get_by_label("Table or collection", exact=True).fill("public.notes")
        dialog.get_by_label("Field", exact=True).fill("text")
        dialog.get_by_label("Field", exact=True).press("Enter")
        expect(dialog.get_by_text("Programs encrypt new values")).to_be_visible()
        dialog.get_by_role("button", name="Protect field").click()
        expect(dialog.get_by_text("is protected")).to_be_visible()
        until(encrypted, wanted=True)
        shown = stack.command("service", "list-protected-fields", tenant, "notes-db")
        assert [(one["field"], one["changed_by"]) for one in shown["fields"]] == [("text", subject(tenant, ADA))]
        close(dialog)
        stack.command("service", "unprotect-field", tenant, "notes-db", "public.notes", "text", "--confirm", tenant)
        until(encrypted, wanted=False)
