"""`openkcm backfill` as a user runs it: killed beside an application, locked half way, and its output."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest

from core.tenants.lifecycle import State, Transition
from openkcm.contract.protected_fields import Backfill, Mode
from tests.client.field_encryption.running.programs import OPENKCM, Program, client_folder
from tests.concurrency import wait_until

ROWS = 3000
MAKE = """
CREATE TABLE patients (id bigint PRIMARY KEY, diagnosis text NOT NULL, insurance text);
INSERT INTO patients SELECT n, 'diagnosis ' || n, 'A-' || n % 9 FROM generate_series(1, ROWS) n;
CREATE TABLE twice (id bigint);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') = 'openkcm backfill'
        AND (OLD.diagnosis LIKE 'okcm:%' AND OLD.diagnosis <> NEW.diagnosis
             OR OLD.insurance LIKE 'okcm:%' AND OLD.insurance <> NEW.insurance) THEN
        INSERT INTO twice VALUES (NEW.id);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER noted BEFORE UPDATE ON patients FOR EACH ROW EXECUTE FUNCTION noted();
"""
FIELDS = {"diagnosis": Mode.RANDOMISED, "insurance": Mode.DETERMINISTIC}
PLAIN = "SELECT count(*) FROM patients WHERE diagnosis NOT LIKE 'okcm:c1:%' OR insurance NOT LIKE 'okcm:c2:%'"
READ = (
    "import json, os, psycopg; connection = psycopg.connect(os.environ['CLINIC_DATABASE']);"
    " print(json.dumps(dict(connection.execute('SELECT id, diagnosis FROM patients'))))"
)
DONE = "SELECT count(*) FROM patients WHERE insurance LIKE 'okcm:c2:%'"
"""The application that runs beside the backfill never writes this."""


def make(program: Program, rows: int = ROWS) -> None:
    program.execute(MAKE.replace("ROWS", str(rows)))
    program.protect("public.patients", plaintext_allowed=True, **FIELDS)


def count(program: Program, query: str = PLAIN) -> int:
    [(found,)] = program.execute(query)
    return int(found)


def command(program: Program, *options: str) -> list[str]:
    return [OPENKCM, "backfill", "--folder", str(program.folder), "--batch", "5", *options]


def begin(program: Program, *options: str) -> subprocess.Popen[str]:
    environment = program.environment() | {"OPENKCM_BACKFILL_DATABASE": program.conninfo}
    return subprocess.Popen(
        command(program, *options), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(program: Program, *options: str, **changed: str) -> subprocess.CompletedProcess[str]:
    return program.run(*command(program, *options), **({"OPENKCM_BACKFILL_DATABASE": program.conninfo} | changed))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.full)])
def test_backfill_killed_at_random_moments_loses_and_repeats_no_row(program: Program, kills: int):
    make(program)
    visits = program.start("visits.py", str(ROWS))
    try:
        for number in range(kills):
            before = count(program, DONE)
            running = begin(program, "--rows-per-second", "300")
            wait_until(lambda before=before: count(program, DONE) > before)  # type: ignore[misc]  # its default
            time.sleep(random.uniform(0, 0.15))  # noqa: S311 - a moment, no secret
            running.send_signal(signal.SIGKILL)
            running.communicate(timeout=60)
            assert count(program) > 0, f"no row was left after {number} kills"
        finished = run(program, "--rows-per-second", "5000", "--json")
    finally:
        output, _ = visits.communicate(timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert json.loads(finished.stdout)["finished"] is True
    assert count(program) == 0
    reported = json.loads(output)
    assert reported["wrong"] == 0
    assert len(reported["known"]) > ROWS / 2
    read = program.protected("-c", READ)
    assert json.loads(read.stdout) == reported["known"], read.stderr
    assert count(program, "SELECT count(*) FROM twice") == 0


def test_backfill_stops_while_the_tenant_is_locked_and_continues_after_the_unlock(program: Program, service):
    make(program, 1500)
    running = begin(program, "--rows-per-second", "150", "--key-seconds", "1", "--json")
    try:
        wait_until(lambda: count(program) < 1400)
        program.home.move(Transition.LOCK)
        wait_until(lambda: _makes_no_progress(program))
        left = count(program)
        assert left > 0
        assert running.poll() is None
        program.home.move(Transition.UNLOCK, State.ACTIVE)
        output, _ = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 0, output
    [table] = json.loads(output)["tables"]
    assert (table["state"], table["rows"], count(program)) == ("finished", 1500, 0)
    assert service.terminate() == 0
    with program.home.world.field.open("dashboard", max_size=1).tenant_tx(program.home.tenant_id) as tx:
        reported = {(row.place, row.done, row.remaining, row.state) for row in tx.agents.backfills()}
        assert tx.agents.all() == []
    assert reported == {
        ("postgresql:public.patients.diagnosis", 1500, 0, Backfill.FINISHED),
        ("postgresql:public.patients.insurance", 1500, 0, Backfill.FINISHED),
    }


def _makes_no_progress(program: Program) -> bool:
    before = count(program)
    time.sleep(1.5)
    return count(program) == before


def test_signal_ends_the_backfill_which_reports_what_is_left(program: Program):
    make(program, 400)
    running = begin(program, "--rows-per-second", "50", "--json")
    wait_until(lambda: count(program) < 400)
    running.terminate()
    output, _ = running.communicate(timeout=60)
    document = json.loads(output)
    assert (running.returncode, document["error"]["code"]) == (1, "backfill_stopped")
    assert document["tables"][0]["state"] == "stopped"
    assert 0 < count(program) < 400


def test_dry_run_and_run_print_their_results(program: Program):
    make(program, 40)
    dry = run(program, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "40" in dry.stdout
    assert "the trigger noted runs for each row" in dry.stdout
    assert count(program) == 40
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert "all are encrypted and can be decrypted" in done.stdout
    assert "public.patients.diagnosis" in done.stdout
    assert run(program, "--undo").returncode == 0
    assert count(program) == 40


def test_password_is_rejected_as_an_argument_and_never_printed(program: Program):
    make(program, 3)
    for conninfo in ("host=x password=hidden", "postgresql://u:hidden@x/y", "password hidden"):
        refused = run(program, "--database", conninfo)
        assert refused.returncode == 1
        assert "OPENKCM_BACKFILL_DATABASE" in refused.stderr
        assert "hidden" not in refused.stdout + refused.stderr
    wrong = run(program, OPENKCM_BACKFILL_DATABASE="host=127.0.0.1 port=1 dbname=x password=hidden")
    assert "not reachable" in wrong.stderr
    assert "hidden" not in wrong.stdout + wrong.stderr
    running = begin(program, "--rows-per-second", "1", "--batch", "1")
    wait_until(lambda: count(program) < 3)
    command_line = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    running.kill()
    running.communicate(timeout=60)
    password = psycopg.conninfo.conninfo_to_dict(program.conninfo).get("password") or os.environ.get("PGPASSWORD", "-")
    assert str(password).encode() not in command_line


def test_folder_of_another_service_decrypts_and_stores_nothing(program: Program, world, service):
    make(program, 20)
    assert run(program).returncode == 0
    program.execute("UPDATE patients SET diagnosis = 'plain' WHERE id = 1")
    other_tenant = world.tenant()
    other = client_folder(other_tenant, "clinic", service, program.place / "other")
    program.protect("public.patients", home=other_tenant, plaintext_allowed=True, **FIELDS)
    refused = run(program, "--folder", str(other))
    assert refused.returncode == 1
    assert "backfill_refused" in refused.stderr
    assert program.execute("SELECT diagnosis FROM patients WHERE id = 1") == [("plain",)]
