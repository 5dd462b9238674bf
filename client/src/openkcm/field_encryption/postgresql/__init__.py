"""Columns of PostgreSQL, encrypted inside psycopg 3.

install         puts the hook into the driver
cursors         where statements leave and rows arrive
databases       what is known of each database and connection
catalogue       which columns: what is listed, and comments; and their tables (catalogue_query asks)
parser          PostgreSQL's own parser
statements      text → plan, by analysis, scopes, reading, conditions, writing; plans is what comes out
work            a plan made ready to be carried out
rewriting       what is sent in place of a statement; parameters reads what was passed
rows            rows on the way back; opening opens the values of a column
key_store       keeps the wrapped column keys beside the data
errors          what the application meets
backfill/       rows from before the protection
"""
