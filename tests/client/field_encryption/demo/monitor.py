"""A ward's monitor, in plain psycopg: writes a note and reads it back every few milliseconds, and prints the result.

Each line: the machine's monotonic clock at the result, `write` or `read`, and `ok` or the error.
"""

import os
import sys
import time

import psycopg

SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (id int PRIMARY KEY, note text);
COMMENT ON COLUMN notes.note IS 'openkcm: encrypt';
"""


def write(conn, number):
    conn.execute(
        "INSERT INTO notes (id, note) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET note = excluded.note",
        (number % 100, f"pulse {number}"),
    )


def read(conn, number):
    (note,) = conn.execute("SELECT note FROM notes WHERE id = %s", (number % 100,)).fetchone()
    assert note.startswith("pulse "), note


def watch(conn):
    number = 0
    while True:
        for act in (write, read):
            try:
                act(conn, number)
                result = "ok"
            except psycopg.Error as error:
                result = " ".join(str(error).split())
            sys.stdout.write(f"{time.monotonic():.4f} {act.__name__} {result}\n")
            sys.stdout.flush()
        number += 1
        time.sleep(0.003)


if __name__ == "__main__":
    with psycopg.connect(os.environ["WARD_DATABASE"], autocommit=True) as ward:
        ward.execute(SCHEMA)
        watch(ward)
