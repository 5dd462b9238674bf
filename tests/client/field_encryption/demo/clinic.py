"""A clinic's patients, in plain psycopg: an application without any knowledge of OpenKCM."""

import os

import psycopg
from psycopg.rows import dict_row

SCHEMA = """
CREATE TABLE IF NOT EXISTS patients (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    diagnosis text,
    insurance text,
    scan bytea
);
CREATE TABLE IF NOT EXISTS visits (
    patient bigint REFERENCES patients (id),
    day date,
    notes text,
    id uuid PRIMARY KEY DEFAULT gen_random_uuid()
);
COMMENT ON COLUMN patients.diagnosis IS 'openkcm: encrypt';
COMMENT ON COLUMN patients.insurance IS 'openkcm: encrypt deterministic';
COMMENT ON COLUMN patients.scan IS 'openkcm: encrypt';
COMMENT ON COLUMN visits.notes IS 'openkcm: encrypt';
"""


def connect():
    return psycopg.connect(os.environ["CLINIC_DATABASE"], row_factory=dict_row)


def admit(conn, name, diagnosis, insurance, scan=None):
    query = "INSERT INTO patients (name, diagnosis, insurance, scan) VALUES (%s, %s, %s, %s) RETURNING id"
    return conn.execute(query, (name, diagnosis, insurance, scan)).fetchone()["id"]


def visit(conn, patient, day, notes):
    conn.execute("INSERT INTO visits (patient, day, notes) VALUES (%s, %s, %s)", (patient, day, notes))


def patient(conn, number):
    return conn.execute("SELECT * FROM patients WHERE id = %s", (number,)).fetchone()


def insured(conn, insurance):
    return conn.execute("SELECT name FROM patients WHERE insurance = %s ORDER BY name", (insurance,)).fetchall()


def diagnose(conn, number, diagnosis):
    conn.execute("UPDATE patients SET diagnosis = %s WHERE id = %s", (diagnosis, number))


def history(conn, number):
    query = """
        SELECT p.name, p.diagnosis, v.day, v.notes
          FROM patients p LEFT JOIN visits v ON v.patient = p.id
         WHERE p.id = %(number)s ORDER BY v.day
    """
    return conn.execute(query, {"number": number}).fetchall()
