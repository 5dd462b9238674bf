"""A ward round's application: changes patients until its input ends, and checks the content of each row."""

import json
import os
import random
import sys
import threading

import psycopg


def work(conn: psycopg.Connection, known: dict[int, str], ended: threading.Event) -> int:
    """Change and read rows; return how many had an unexpected content."""
    wrong, number = 0, 0
    while not ended.is_set():
        number += 1
        patient = random.choice(list(known))  # noqa: S311 - test data, no secret
        kind = random.random()  # noqa: S311 - the same
        if kind < 0.4:
            conn.execute("UPDATE patients SET diagnosis = %s WHERE id = %s", (f"changed {number}", patient))
            known[patient] = f"changed {number}"
        elif kind < 0.5:
            conn.execute("DELETE FROM patients WHERE id = %s", (patient,))
            del known[patient]
        elif kind < 0.6:
            conn.execute("INSERT INTO patients (id, diagnosis) VALUES (%s, %s)", (100_000 + number, f"new {number}"))
            known[100_000 + number] = f"new {number}"
        else:
            row = conn.execute("SELECT diagnosis FROM patients WHERE id = %s", (patient,)).fetchone()
            wrong += row != (known[patient],)
        ended.wait(0.002)
    return wrong


def main() -> None:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with psycopg.connect(os.environ["CLINIC_DATABASE"], autocommit=True) as conn:
        known = {number: f"diagnosis {number}" for number in range(1, int(sys.argv[1]) + 1)}
        wrong = work(conn, known, ended)
        sys.stdout.write(json.dumps({"wrong": wrong, "known": known}))


if __name__ == "__main__":
    main()
