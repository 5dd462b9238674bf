"""`openkcm backfill` as a user runs it: killed at random moments beside an application, locked half way, looked at."""

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
"""What the application beside never writes."""


def make(program: Program, rows: int = ROWS) -> None:
    program.execute(MAKE.replace("ROWS", str(rows)))
    program.protect("public.patients", plain_allowed=True, **FIELDS)


def count(program: Program, query: str = PLAIN) -> int:
    [(found,)] = program.execute(query)
    return int(found)


def command(program: Program, *options: str) -> list[str]:
    return [OPENKCM, "backfill", "--folder", str(program.folder), "--batch", "5", *options]


def begin(program: Program, *options: str) -> subprocess.Popen[str]:
    environment = program.environment() | {"KCM_BACKFILL_DATABASE": program.conninfo}
    return subprocess.Popen(
        command(program, *options), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(program: Program, *options: str, **changed: str) -> subprocess.CompletedProcess[str]:
    return program.run(*command(program, *options), **({"KCM_BACKFILL_DATABASE": program.conninfo} | changed))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.full)])
def test_killed_at_random_moments_beside_an_application_no_row_is_lost_or_done_twice(program: Program, kills: int):
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
            assert count(program) > 0, f"nothing was left to kill after {number}"
        finished = run(program, "--rows-per-second", "5000", "--json")
    finally:
        said, _ = visits.communicate(timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert json.loads(finished.stdout)["finished"] is True
    assert count(program) == 0
    told = json.loads(said)
    assert told["wrong"] == 0
    assert len(told["known"]) > ROWS / 2
    read = program.protected("-c", READ)
    assert json.loads(read.stdout) == told["known"], read.stderr
    assert count(program, "SELECT count(*) FROM twice") == 0


def test_the_kill_switch_half_way_stops_it_and_it_goes_on_when_the_tenant_is_unlocked(program: Program, service):
    make(program, 1500)
    running = begin(program, "--rows-per-second", "150", "--key-seconds", "1", "--json")
    try:
        wait_until(lambda: count(program) < 1400)
        program.home.move(Transition.LOCK)
        wait_until(lambda: _stands_still(program))
        left = count(program)
        assert left > 0
        assert running.poll() is None
        program.home.move(Transition.UNLOCK, State.ACTIVE)
        said, _ = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 0, said
    [table] = json.loads(said)["tables"]
    assert (table["state"], table["rows"], count(program)) == ("finished", 1500, 0)
    assert service.terminate() == 0
    with program.home.world.field.open("dashboard", max_size=1).tenant_tx(program.home.tenant_id) as tx:
        told = {(row.place, row.done, row.remaining, row.state) for row in tx.agents.backfills()}
        assert tx.agents.all() == []
    assert told == {
        ("postgresql:public.patients.diagnosis", 1500, 0, Backfill.FINISHED),
        ("postgresql:public.patients.insurance", 1500, 0, Backfill.FINISHED),
    }


def _stands_still(program: Program) -> bool:
    before = count(program)
    time.sleep(1.5)
    return count(program) == before


def test_a_signal_ends_it_and_says_so_and_what_is_left_is_told(program: Program):
    make(program, 400)
    running = begin(program, "--rows-per-second", "50", "--json")
    wait_until(lambda: count(program) < 400)
    running.terminate()
    said, _ = running.communicate(timeout=60)
    document = json.loads(said)
    assert (running.returncode, document["error"]["code"]) == (1, "backfill_stopped")
    assert document["tables"][0]["state"] == "stopped"
    assert 0 < count(program) < 400


def test_a_dry_run_and_people_are_told_what_is_to_do_and_what_was_done(program: Program):
    make(program, 40)
    dry = run(program, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "40" in dry.stdout
    assert "the trigger noted runs for each row" in dry.stdout
    assert count(program) == 40
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert "all are encrypted and open" in done.stdout
    assert "public.patients.diagnosis" in done.stdout
    assert run(program, "--undo").returncode == 0
    assert count(program) == 40


def test_a_password_is_never_an_argument_and_never_shown(program: Program):
    make(program, 3)
    for given in ("host=x password=hidden", "postgresql://u:hidden@x/y", "password hidden"):
        refused = run(program, "--database", given)
        assert refused.returncode == 1
        assert "KCM_BACKFILL_DATABASE" in refused.stderr
        assert "hidden" not in refused.stdout + refused.stderr
    wrong = run(program, KCM_BACKFILL_DATABASE="host=127.0.0.1 port=1 dbname=x password=hidden")
    assert "not reached" in wrong.stderr
    assert "hidden" not in wrong.stdout + wrong.stderr
    running = begin(program, "--rows-per-second", "1", "--batch", "1")
    wait_until(lambda: count(program) < 3)
    seen = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    running.kill()
    running.communicate(timeout=60)
    password = psycopg.conninfo.conninfo_to_dict(program.conninfo).get("password") or os.environ.get("PGPASSWORD", "-")
    assert str(password).encode() not in seen


def test_another_services_folder_opens_nothing_and_stores_nothing(program: Program, world, service):
    make(program, 20)
    assert run(program).returncode == 0
    program.execute("UPDATE patients SET diagnosis = 'plain' WHERE id = 1")
    stranger = world.tenant()
    other = client_folder(stranger, "clinic", service, program.place / "other")
    program.protect("public.patients", home=stranger, plain_allowed=True, **FIELDS)
    refused = run(program, "--folder", str(other))
    assert refused.returncode == 1
    assert "backfill_refused" in refused.stderr
    assert program.execute("SELECT diagnosis FROM patients WHERE id = 1") == [("plain",)]
