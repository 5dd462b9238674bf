"""Activities: one external effect each, get-or-create, safe to run twice.

Each class takes the interfaces it needs (a database, keys) in its constructor; no hvac, no
psycopg, no settings here. An activity's name is the name of its step. Its idempotency key is the operation id and the
step, never a random number, so the second run of a killed step finds what the first one left and adds nothing.
"""
