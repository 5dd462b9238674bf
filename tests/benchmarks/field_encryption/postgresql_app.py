"""A stock application for `protected_postgresql`: runs blocks of statements according to JSON lines on stdin.

It does not use OpenKCM, and runs twice: plain, and under `openkcm run`.
"""

import json
import secrets
import sys
import time
from typing import Any

import psycopg

RANGE = 500
_COLUMNS = ("a", "b", "c", "d")
_WORKLOADS = {
    "nothing protected": "SELECT id, a FROM other WHERE id = %s",
    "select, 1 column": "SELECT id, a FROM {} WHERE id = %s",
    "select, 4 columns": "SELECT * FROM {} WHERE id = %s",
    "insert, 4 columns": "INSERT INTO {} (a, b, c, d) VALUES (%s, %s, %s, %s)",
    "update by key, 1 column": "UPDATE {} SET a = %s WHERE id = %s",
    "select, 500 rows of 4 columns": "SELECT * FROM {} WHERE id BETWEEN %s AND %s",
}


class Application:
    def __init__(self) -> None:
        self._conn: psycopg.Connection[Any] | None = None

    @property
    def conn(self) -> psycopg.Connection[Any]:
        assert self._conn is not None
        return self._conn

    def connect(self, conninfo: str) -> int:
        """Return the process id of the server's backend."""
        if self._conn is not None:
            self._conn.close()
        self._conn = psycopg.connect(conninfo, autocommit=True)
        return self._conn.info.backend_pid

    def fill(self, table: str, rows: int, size: int) -> None:
        """Store rows with keys from 1, and read all of them once, so that all caches are warm."""
        columns = ", ".join(_COLUMNS)
        query = f"INSERT INTO {table} ({columns}) VALUES (%s, %s, %s, %s)"
        with self.conn.cursor() as cursor:
            cursor.executemany(query, [[_value(size) for _ in _COLUMNS] for _ in range(rows)])
        self.conn.execute(f"VACUUM ANALYZE {table}")
        assert len(self.conn.execute(f"SELECT * FROM {table}").fetchall()) >= rows

    def block(self, workload: str, table: str, rows: int, size: int, count: int) -> list[int]:
        """Return the duration of each statement in nanoseconds, including its rows."""
        query = _WORKLOADS[workload].format(table)
        asked = [_values(workload, 1 + (number * 7919) % (rows - RANGE), size) for number in range(count)]
        conn, clock, took, reads = self.conn, time.perf_counter_ns, [], "SELECT" in query
        for values in asked:
            begun = clock()
            cursor = conn.execute(query, values)
            if reads:
                cursor.fetchall()
            took.append(clock() - begun)
        return took


def _value(size: int) -> str:
    return secrets.token_hex(size // 2)


def _values(workload: str, key: int, size: int) -> list[Any]:
    if workload.startswith("insert"):
        return [_value(size) for _ in _COLUMNS]
    if workload.startswith("update"):
        return [_value(size), key]
    return [key, key + RANGE - 1] if "rows" in workload else [key]


def main() -> None:
    application = Application()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(application, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
