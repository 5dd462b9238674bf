"""The pauses of a backfill's connection while a server is unavailable."""

import threading

import psycopg

from openkcm.field_encryption.backfill.connection import LONGEST_REST, Options, RetryingConnection
from openkcm.field_encryption.backfill.table_scan import Settings

ATTEMPTS = 1100


def test_pauses_of_a_long_outage_stay_at_their_longest(monkeypatch):
    rests: list[float] = []

    def connect(*_: object, **__: object) -> str:
        if len(rests) < ATTEMPTS:
            raise psycopg.OperationalError("connection refused")
        return "connected"

    options = Options("", Settings(batch=1, rows_per_second=1.0, undo=False), wait_seconds=1e6)
    connection = RetryingConnection(options, threading.Event(), lambda: None)
    monkeypatch.setattr(connection, "connected", connect)
    monkeypatch.setattr(connection, "rest", rests.append)
    assert connection.do(str) == "connected"
    assert rests[0] <= 0.1
    assert all(LONGEST_REST / 2 <= rest <= LONGEST_REST for rest in rests[10:])
