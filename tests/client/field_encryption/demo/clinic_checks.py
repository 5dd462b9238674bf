"""The clinic's own tests, independent of OpenKCM."""

import asyncio
import datetime as dt
import os

import clinic
import psycopg
import pytest


@pytest.fixture
def conn():
    with clinic.connect() as connection:
        connection.execute(clinic.SCHEMA)
        connection.execute("TRUNCATE visits, patients RESTART IDENTITY")
        connection.commit()
        yield connection


def test_a_patient_is_admitted_and_found(conn):
    number = clinic.admit(conn, "Ann", "influenza", "A-1", b"\x89PNG")
    assert number == 1
    want = {"id": 1, "name": "Ann", "diagnosis": "influenza", "insurance": "A-1", "scan": b"\x89PNG"}
    assert clinic.patient(conn, number) == want


def test_a_diagnosis_changes(conn):
    number = clinic.admit(conn, "Ann", "influenza", "A-1")
    clinic.diagnose(conn, number, "a cold")
    assert clinic.patient(conn, number)["diagnosis"] == "a cold"


def test_patients_are_found_by_their_insurance(conn):
    for name, insurance in (("Ann", "A-1"), ("Bob", "B-2"), ("Cid", "A-1")):
        clinic.admit(conn, name, None, insurance)
    assert clinic.insured(conn, "A-1") == [{"name": "Ann"}, {"name": "Cid"}]
    assert clinic.insured(conn, "C-3") == []


def test_a_history_contains_every_visit(conn):
    number = clinic.admit(conn, "Ann", "influenza", "A-1")
    clinic.visit(conn, number, dt.date(2026, 1, 2), "better")
    clinic.visit(conn, number, dt.date(2026, 1, 1), "fever")
    assert [(one["diagnosis"], one["notes"]) for one in clinic.history(conn, number)] == [
        ("influenza", "fever"),
        ("influenza", "better"),
    ]


async def everything():
    async with await psycopg.AsyncConnection.connect(os.environ["CLINIC_DATABASE"]) as conn:
        return await (await conn.execute("SELECT diagnosis FROM patients")).fetchall()


def test_async(conn):
    clinic.admit(conn, "Ann", "influenza", "A-1")
    conn.commit()
    assert asyncio.run(everything()) == [("influenza",)]
