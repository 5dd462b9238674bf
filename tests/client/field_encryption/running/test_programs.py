"""Sample applications, run unchanged: plain and protected."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from core.tenants.lifecycle import State, Transition
from openkcm.cli.run import run_environment
from tests.client.field_encryption.running.programs import Program, client_folder
from tests.concurrency import wait_until


@pytest.mark.parametrize("name", ["clinic_checks.py", "shop_checks.py"])
def test_tests_of_an_application_pass_plain_and_protected(program, name):
    program.assert_own_tests_pass(name)


# A ciphertext in base64 may contain "flu" by chance; it does not contain "influenza".
WRITE = (
    "import clinic; c = clinic.connect(); c.execute(clinic.SCHEMA); "
    "clinic.admit(c, 'Ann', 'influenza', 'insured-1'); c.commit()"
)
READ = "import clinic; print(clinic.patient(clinic.connect(), 1)['diagnosis'])"


def test_stored_values_are_ciphertext_and_another_tenant_cannot_read_them(program, world, service):
    assert program.protected("-c", WRITE).returncode == 0
    [stored] = program.execute("SELECT diagnosis, insurance FROM patients")
    assert [value[:8] for value in stored] == ["okcm:c1:", "okcm:c2:"]
    dump = str([program.execute(f"SELECT t::text FROM {table} t") for table in ("patients", "openkcm.column_key")])
    assert "okcm:c1:" in dump
    assert "Ann" in dump
    assert "influenza" not in dump
    assert "insured-1" not in dump
    assert program.protected("-c", READ).stdout == "influenza\n"
    assert program.plain("-c", READ).stdout.startswith("okcm:c1:")
    other = client_folder(world.tenant(), "clinic", service, program.place / "other")
    read = program.protected("-c", READ, folder=other)
    assert read.returncode == 1
    assert read.stdout == ""
    assert "openkcm.field_encryption.postgresql.errors.KeysUnavailable" in read.stderr
    neighbour = client_folder(program.home, "other", service, program.place / "neighbour")
    assert "KeysUnavailable" in program.protected("-c", READ, folder=neighbour).stderr


LOOP = """
import sys, traceback, clinic, psycopg
conn = clinic.connect()
conn.autocommit = True

def is_watching():
    frames = [frame for top in sys._current_frames().values() for frame, _ in traceback.walk_stack(top)]
    return any(frame.f_code.co_qualname == "HeldConnection.wait" for frame in frames)

for line in sys.stdin:
    try:
        print(is_watching() if line == "watching\\n" else clinic.patient(conn, 1)["diagnosis"], flush=True)
    except psycopg.OperationalError as error:
        print(type(error).__name__, flush=True)
"""


class Running:
    """A program that reads on request and continues after an error."""

    def __init__(self, program: Program, key_seconds: int) -> None:
        self.process = program.start("-c", LOOP, options=("--key-seconds", str(key_seconds)))

    def ask(self, question: str = "") -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def until(self, wanted: str, otherwise: str, question: str = "") -> None:
        """Ask until the answer is `wanted`; each answer before is `otherwise`."""

        def answered() -> bool:
            answer = self.ask(question)
            assert answer in {wanted, otherwise}
            return answer == wanted

        wait_until(answered)


@contextmanager
def running(program: Program, key_seconds: int) -> Iterator[Running]:
    assert program.protected("-c", WRITE).returncode == 0
    loop = Running(program, key_seconds)
    try:
        yield loop
    finally:
        loop.process.communicate(timeout=60)


def test_program_continues_for_its_key_time_without_the_crypto_service_then_stops_and_recovers(program, service):
    with running(program, 4) as loop:
        assert loop.ask() == "influenza"
        service.kill()
        assert loop.ask() == "influenza"
        loop.until("KeysUnavailable", "influenza")
        service.start("OPENKCM_CRYPTO_PROCESSES", "1")
        service.wait_ready()
        loop.until("influenza", "KeysUnavailable")


@pytest.mark.parametrize("what", ["locked", "disconnected", "revoked"])
def test_rejection_stops_a_running_program_immediately_despite_a_long_key_time(program, what):
    home = program.home
    with running(program, 3600) as loop:
        assert loop.ask() == "influenza"
        # The encryption holds a connection whose end reports the rejection.
        loop.until("True", "False", "watching")
        if what == "locked":
            home.move(Transition.LOCK)
        elif what == "disconnected":
            home.disconnect("clinic")
        else:
            with home.world.worker.raw_tx(home.tenant_id) as connection:
                connection.execute("update okcm.service_certificate set revoked_at = clock_timestamp()")
        loop.until("KeysUnavailable", "influenza")
        if what == "locked":
            home.move(Transition.UNLOCK, State.ACTIVE)
            loop.until("influenza", "KeysUnavailable")


def test_program_with_cached_keys_continues_during_a_restart_of_the_crypto_service(program, service):
    with running(program, 3600) as loop:
        assert loop.ask() == "influenza"
        service.kill()
        for _ in range(20):
            assert loop.ask() == "influenza"
            time.sleep(0.1)
        service.start("OPENKCM_CRYPTO_PROCESSES", "1")
        service.wait_ready()
        assert loop.ask() == "influenza"


def test_program_started_while_its_tenant_is_locked_sends_nothing(program):
    assert program.protected("-c", WRITE).returncode == 0
    program.home.move(Transition.LOCK)
    read = program.protected("-c", READ)
    assert read.returncode == 1
    assert "ProtectionUnknown" in read.stderr
    program.home.move(Transition.UNLOCK, State.ACTIVE)
    assert program.protected("-c", READ).stdout == "influenza\n"


def test_child_processes_are_protected_and_a_program_keeps_its_own_modules(program):
    assert program.protected("-c", WRITE).returncode == 0
    (program.app / "crypto.py").write_text("OWN = 'mine'\n")
    (program.app / "hooks").mkdir()
    (program.app / "hooks" / "__init__.py").write_text("OWN = 'too'\n")
    early = program.place / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text("import builtins\nbuiltins.chained = True\n")
    script = (
        "import subprocess, sys, crypto, psycopg, hooks; print(crypto.OWN, hooks.OWN, chained, flush=True)\n"
        f"subprocess.run([sys.executable, '-c', {READ!r}], check=True)"
    )
    ran = program.protected("-c", script, PYTHONPATH=str(early))
    assert ran.stdout == "mine too True\ninfluenza\n", ran.stderr


NOT_RUN = [
    (("-I", "-c", "print('ran')"), "does not load the encryption"),
    (("-W", "ignore", "-bS", "-c", "print('ran')"), "does not load the encryption"),
    (("-c", "import asyncpg; print('ran')"), "asyncpg cannot be protected"),
    (("-c", "import psycopg2; print('ran')"), "psycopg2 cannot be protected"),
]
ENDED = [
    ({"OPENKCM_RUN_PYTHON": "3.99"}, "OpenKCM is installed for Python 3.99"),
    ({"OPENKCM_RUN_FOLDER": "/nowhere"}, "is not the folder of a connected service"),
    ({"PYTHONPATH": "blocked"}, "libpg_query is missing"),
]


def test_program_that_cannot_be_protected_does_not_run(program):
    for command, message in NOT_RUN:
        ran = program.protected(*command)
        assert ran.returncode != 0
        assert "ran" not in ran.stdout
        assert message in ran.stderr
    (program.app / "blocked").mkdir()
    (program.app / "blocked" / "postgast.py").write_text("")
    for changed, message in ENDED:
        environment = run_environment(program.environment() | changed, program.folder, 60)
        environment |= {name: value for name, value in changed.items() if name != "PYTHONPATH"}
        ran = program.run(sys.executable, "-c", "print('ran')", **environment)
        assert (ran.returncode, ran.stdout) == (78, "")
        assert message in ran.stderr


WRITER = """
import sys, clinic
conn = clinic.connect()
conn.autocommit = True
for number in sys.stdin:
    conn.execute("INSERT INTO notes VALUES (%s, 'secret')", [int(number)])
    print("done", flush=True)
"""


def test_running_program_applies_a_changed_list_in_time(program):
    with psycopg.connect(program.conninfo, autocommit=True) as owner:
        owner.execute("CREATE TABLE notes (id int PRIMARY KEY, text text)")
        running = program.start("-c", WRITER, OPENKCM_RUN_CATALOGUE_SECONDS="1")
        numbers = iter(range(1_000_000))

        def written() -> bool:
            """Write one more row and return whether it was encrypted."""
            number = next(numbers)
            running.stdin.write(f"{number}\n")
            running.stdin.flush()
            assert running.stdout.readline() == "done\n"
            return owner.execute("SELECT text LIKE 'okcm:c1:%%' FROM notes WHERE id = %s", [number]).fetchone()[0]

        field = (program.home.tenant_id, "clinic", "public.notes", "text", "--store", "postgresql")
        try:
            assert not written()
            program.operator("service", "protect-field", *field)
            wait_until(written)
            program.operator("service", "unprotect-field", *field, "--confirm", program.home.tenant_id)
            wait_until(lambda: not written())
        finally:
            running.communicate(timeout=60)
    assert program.operator("service", "list-protected-fields", program.home.tenant_id, "clinic")["fields"] == []
