"""Encryption of PostgreSQL columns inside psycopg 3.

driver      sends rewritten statements and decrypts rows
sessions    the state of each database and connection
catalog     the protected columns and their tables, from the list and from comments
parser      PostgreSQL's own parser
statements  from a text to its plan
rewrite/    the analysis of queries, conditions and modifying statements
plan        the plan: rewritten text, parameters and result columns
execute/    the execution of a plan: parameters, rows
key_store   the wrapped column keys in the database
errors      the errors of the application
"""
