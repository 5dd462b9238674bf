"""Encryption of values that were stored before their columns were protected: `openkcm backfill`.

    run             processes the tables in sequence
    connection      the database connection, with waiting and retries
    table_scan      the passes over one table: count, change, read back
    queries         the statements of these passes
    preloaded_keys  encrypts and decrypts values with keys that were loaded before a row is locked
    preflight       the requirements, and warnings
    progress        the progress, and its reports to OpenKCM

The data itself is the state: a plain value is still to be encrypted. An interruption can neither lose nor repeat work,
and a database that was restored or written to meanwhile is no special case.
"""
