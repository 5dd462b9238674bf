"""Usage of a protected program is recorded soon; the program is neither counted as an agent nor affected."""

import subprocess
import time
from datetime import UTC, datetime

from database.services.agents import ProtectionUseRow
from openkcm.contract.protected_fields import Mode
from tests.client.field_encryption.running.programs import Program

WORK = """
import json, pathlib, sys, clinic
c = clinic.connect()
c.execute(clinic.SCHEMA)
c.commit()
for n in range(3):
    clinic.admit(c, "Ann", "flu", f"A-{n}")
c.execute("INSERT INTO visits (patient, day, notes) VALUES (%s, now(), %s)", (1, "cough"))
c.commit()
for _ in range(2):
    assert clinic.patient(c, 1)["diagnosis"] == "flu"
assert clinic.insured(c, "A-1") == [{"name": "Ann"}]
c.cursor().executemany("UPDATE patients SET diagnosis = %s WHERE id = %s", [("cold", 2), ("cold", 3)])
c.commit()
"""
FORKED = """
import os
child = os.fork()
if child == 0:
    with clinic.connect() as own:
        assert clinic.patient(own, 2)["diagnosis"] == "cold"
    sys.exit()
os.waitpid(child, 0)
"""
WAITING = """
print("done", flush=True)
sys.stdin.readline()
"""


def recorded(program: Program, expected: int) -> dict[str, ProtectionUseRow]:
    """Return the recorded usage once it has the expected number of operations on diagnoses."""
    today = datetime.now(UTC).date()
    deadline = time.monotonic() + 60
    while True:
        with program.home.world.crypto.tenant_tx(program.home.tenant_id) as tx:
            assert tx.agents.all() == []
            rows = {row.place: row for row in tx.agents.uses(today, datetime.now(UTC).date())}
        found = rows.get("postgresql:public.patients.diagnosis")
        if (found is not None and found.operations >= expected) or time.monotonic() > deadline:
            return rows
        time.sleep(0.2)


def test_usage_of_a_program_and_its_children_is_reported_at_their_end(program):
    ran = program.protected("-c", WORK + FORKED)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    rows = recorded(program, 8)
    counts = {place: (row.operations, row.bytes, row.requests) for place, row in rows.items()}
    assert counts == {
        "postgresql:public.patients.diagnosis": (3 + 2 + 2 + 1, 9 + 6 + 8 + 4, 3 + 2 + 1 + 1),
        "postgresql:public.patients.insurance": (3 + 2 + 1 + 1, 9 + 6 + 3 + 3, 3 + 2 + 1 + 1),
        "postgresql:public.patients.scan": (0, 0, 3 + 2 + 1),
        "postgresql:public.visits.notes": (1, 5, 1),
    }
    for row in rows.values():
        assert 0 < row.microseconds < row.request_microseconds < 60_000_000


def test_values_read_plain_are_counted_separately(program):
    program.plain("-c", WORK)
    fields = {"diagnosis": Mode.RANDOMISED, "insurance": Mode.DETERMINISTIC}
    program.protect("public.patients", plaintext_allowed=True, **fields)
    script = "import clinic; c = clinic.connect(); print(len([clinic.patient(c, n) for n in (1, 2)]))"
    script += "; clinic.diagnose(c, 1, 'flu'); c.commit()"
    assert program.protected("-c", script).stdout == "2\n"
    rows = recorded(program, 1)
    assert rows["postgresql:public.patients.diagnosis#plain"].operations == 2
    assert rows["postgresql:public.patients.diagnosis"].operations == 1


def start(program: Program) -> subprocess.Popen[str]:
    running = program.start("-c", WORK + WAITING)
    assert running.stdout is not None
    assert running.stdout.readline() == "done\n"
    return running


def test_killed_program_has_reported_its_earlier_usage(program):
    running = start(program)
    try:
        assert recorded(program, 7)["postgresql:public.patients.diagnosis"].operations == 7
    finally:
        running.kill()
        running.communicate()


def test_unreachable_crypto_service_does_not_affect_the_program(program, service):
    running = start(program)
    service.kill()
    assert running.communicate("\n", timeout=60) == ("", "")
    assert running.returncode == 0
