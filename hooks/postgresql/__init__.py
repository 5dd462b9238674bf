"""Columns of PostgreSQL, encrypted inside psycopg 3.

install         puts the hook into the driver
cursors         where statements leave and rows arrive
databases       what is known of each database and connection
catalogue       which columns: what is listed, and comments; and their tables (catalogue_query asks)
parser          PostgreSQL's own parser
statements      text → plan, by analysis, scopes, reading, conditions, writing; plans is what comes out
rewriting       carrying a plan out
rows            rows on the way back
key_store       keeps the wrapped column keys beside the data
errors          what the application meets
backfill/       rows from before the protection
"""
